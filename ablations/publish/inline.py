"""publish=inline: send inside the transaction, before it commits (rows S0.24, S2.11, S2.13).

Predicted: phantoms under P2 (the process dies, or the commit fails, after the broker confirmed); lost events when the
broker is off, since the failure is only logged. None under calm.
"""

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ablations.publish.direct import DirectPublisher
from core.inbox.retries import RetryPolicy
from core.journey import Probe
from core.messaging.envelope import Envelope
from core.messaging.ports import Publisher
from core.storage.event_store import append
from core.storage.tables import MessagingTables


class InlineSink:
    def __init__(
        self,
        tables: MessagingTables,
        publisher: Publisher,
        probe: Probe | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._tables = tables
        self._direct = DirectPublisher(publisher, probe, retry)

    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        append(target, self._tables, envelopes)
        if envelopes:
            self._direct.send(envelopes)

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        if envelopes:
            self._direct.committed(envelopes)

    def close(self) -> None:
        self._direct.close()
