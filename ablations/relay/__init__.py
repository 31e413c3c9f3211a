"""The seams `relay.claim`, `relay.confirm` and `relay.order` in all values; `core.outbox.relay.Relay` is the default.

Every factory takes what `Relay` takes: engine, tables, publisher, options, probe, owner. `options=None` means the
variant's own: a tick of one second, up to 1,000 rows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from threading import Event
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Engine

from ablations.relay.claim_for_update import ForUpdate
from ablations.relay.claim_lock import LockWithLease
from ablations.relay.claim_none import NoClaim
from ablations.relay.claim_skip_locked import SkipLocked
from ablations.relay.confirm_none import UnawaitedPublisher
from ablations.relay.order_ignore import OrderIgnoringRelay
from ablations.relay.polling import Claim, PollingRelay
from core.journey import Probe
from core.messaging.ports import Publisher
from core.outbox.relay import Relay, RelayOptions
from core.storage.tables import MessagingTables


class Runs(Protocol):
    def run(self, stop: Event) -> None: ...


class MakesRelay(Protocol):
    def __call__(
        self,
        engine: Engine,
        tables: MessagingTables,
        publisher: Publisher,
        options: RelayOptions | None = None,
        probe: Probe | None = None,
        owner: str | None = None,
    ) -> Runs: ...


CLAIMS: Mapping[str, Callable[[], Claim] | None] = {
    "none": NoClaim,
    "lock": LockWithLease,
    "for_update": ForUpdate,
    "skip_locked": SkipLocked,
    "lease": None,
}
ROW_BY_ROW = ("none", "lock")
"""Claims whose relay sends one row, awaits its answer and marks it before the next, as the articles do."""
CONFIRMS = ("await", "none")
ORDERS = ("hold_key", "ignore")


class Seams(NamedTuple):
    claim: str = "lease"
    confirm: str = "await"
    order: str = "hold_key"


STRATEGIES: Mapping[str, Seams] = {
    "outbox-naive": Seams("none", "await", "ignore"),
    "outbox-lock": Seams("lock"),
    "outbox-for-update": Seams("for_update"),
    "outbox-skip-locked": Seams("skip_locked"),
    "outbox-leased": Seams(),
}
"""PUBLISH_STRATEGY -> what each seam is set to."""


def relay_factory(seams: Seams) -> MakesRelay:
    """The relay with these seams. Raises KeyError for a value that no seam has."""
    if seams.confirm not in CONFIRMS or seams.order not in ORDERS:
        raise KeyError(f"relay.confirm={seams.confirm} relay.order={seams.order}: allowed are {CONFIRMS} and {ORDERS}")
    make_claim = CLAIMS[seams.claim]
    make: Callable[..., Runs]
    if make_claim is None:
        make = Relay if seams.order == "hold_key" else OrderIgnoringRelay
    else:
        make = partial(_polling, make_claim, seams)
    return partial(_unawaited, make) if seams.confirm == "none" else make


def _polling(make_claim: Callable[[], Claim], seams: Seams, *arguments: Any, **named: Any) -> PollingRelay:
    return PollingRelay(make_claim(), seams.order == "hold_key", seams.claim in ROW_BY_ROW, *arguments, **named)


def _unawaited(
    make: Callable[..., Runs], engine: Engine, tables: MessagingTables, publisher: Publisher, *rest: Any, **named: Any
) -> Runs:
    return make(engine, tables, UnawaitedPublisher(publisher), *rest, **named)
