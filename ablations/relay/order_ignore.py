"""relay.order=ignore under the leased claim: a failed row is tried again later, its key goes on meanwhile (row S0.34).

Predicted: out of order as soon as one message of a key is refused or unknown while later ones pass. None under calm.
The polling relays have the same value as `hold_key=False`.
"""

from collections.abc import Sequence
from dataclasses import replace

from core.messaging.outcomes import Outcome
from core.outbox.decisions import Settlement
from core.outbox.relay import Batch, Relay
from core.outbox.storage import DriverSession, OutboxStorage
from core.storage.tables import MessagingTables


class OrderIgnoringRelay(Relay):
    def _decide(self, batch: Batch, outcomes: Sequence[Outcome]) -> Settlement:
        held = super()._decide(batch, outcomes)
        confirmed = tuple(row for row, outcome in zip(batch.rows, outcomes, strict=True) if outcome.is_confirmed)
        return replace(held, cleared=confirmed, held_keys=frozenset())

    def _open_storage(self, session: DriverSession) -> OutboxStorage:
        return KeyBlindStorage(session, self._tables)


class KeyBlindStorage(OutboxStorage):
    """Reads past a waiting or parked row of the same key."""

    def __init__(self, session: DriverSession, tables: MessagingTables) -> None:
        super().__init__(session, tables, hold_condition="")
