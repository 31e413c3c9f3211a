"""What follows from the broker's answers: pure, no clock, no database. The model test drives exactly these functions.

Order per key rests on three rules: only the confirmed *prefix* of a key leaves the outbox; a key whose prefix broke is
*held*, also in the batch that was already read; and marks are *fenced* by the lease's epoch (`storage`, `leases`).
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome, Status


class Row(NamedTuple):
    """One pending event, as the relay read it."""

    id: int
    """The outbox's reading order."""
    bucket: int
    attempts: int
    """How often the broker refused it before."""
    envelope: Envelope


class Failure(NamedTuple):
    """The first row of a key that was not confirmed: it stops its key."""

    row: Row
    attempts: int
    """To be written: one more if refused; an unknown outcome is not counted, it says nothing about the message."""
    reason: str
    wait_s: float
    is_parked: bool


@dataclass(frozen=True)
class Settlement:
    """What to write after one batch."""

    cleared: tuple[Row, ...] = ()
    """The confirmed prefix of each key."""
    failures: tuple[Failure, ...] = ()
    held_keys: frozenset[str] = field(default_factory=frozenset)
    """Keys that stopped: what was read of them meanwhile must not be published."""

    @property
    def is_empty(self) -> bool:
        return not self.cleared and not self.failures


def settle(
    rows: Sequence[Row], outcomes: Sequence[Outcome], *, max_attempts: int, refused_wait_s: float, unknown_wait_s: float
) -> Settlement:
    """Decide for one batch, given in outbox order, with one outcome a row."""
    cleared: list[Row] = []
    stopped: dict[str, tuple[Row, Outcome]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        key = row.envelope.key
        if key in stopped:
            continue
        if outcome.status is Status.CONFIRMED:
            cleared.append(row)
        else:
            stopped[key] = (row, outcome)
    failures = tuple(
        _refused(row, outcome, max_attempts, refused_wait_s)
        if outcome.status is Status.REFUSED
        else Failure(row, row.attempts, outcome.reason or "unknown", unknown_wait_s, is_parked=False)
        for row, outcome in stopped.values()
    )
    return Settlement(tuple(cleared), failures, frozenset(stopped))


def _refused(row: Row, outcome: Outcome, max_attempts: int, wait_s: float) -> Failure:
    attempts = row.attempts + 1
    return Failure(row, attempts, outcome.reason or "refused", wait_s * 2**row.attempts, attempts >= max_attempts)


def is_outage(outcomes: Sequence[Outcome]) -> bool:
    """Nothing was answered at all: as far as this batch can tell, the broker is away and no message is to blame."""
    return bool(outcomes) and all(outcome.status is Status.UNKNOWN for outcome in outcomes)


class SilentKeys:
    """Keys of batches without any answer, each with the instant until which other keys are asked instead.

    It may be the broker that is away, or only one lane: a key with more rows than a batch holds would otherwise be
    read again and again as the lowest, and hold every other key. Bounded: a batch's keys leave by time.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, keys: Iterable[str], until: float) -> None:
        self._until.update(dict.fromkeys(keys, until))

    def at(self, now: float) -> list[str]:
        """Those not to be read at `now`; forgets the ones that may be."""
        if self._until:
            self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)

    def answered(self, until: float) -> None:
        """The broker is there: none needs to wait longer than `until`."""
        if self._until:
            self._until = {key: min(each, until) for key, each in self._until.items()}

    def clear(self) -> None:
        self._until.clear()


def without_held(rows: Sequence[Row], held_keys: Set[str]) -> Sequence[Row]:
    """The part of a batch read ahead that may still be published; the rest stays pending and is read again."""
    if not held_keys:
        return rows
    return [row for row in rows if row.envelope.key not in held_keys]


def fair_share(buckets: int, live_relays: int) -> int:
    """How many buckets one relay may own, so that all are owned and none sits idle: 64 over 3 is 22, 22, 20."""
    return -(-buckets // max(live_relays, 1))
