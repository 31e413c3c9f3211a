"""Does the broker's log hold exactly what the database committed? Both directions, pure, one pass over each.

The ledger is read before the log: what it says was sent must then be in the log, and what the log holds beyond it is
looked up once more, for it may have been committed meanwhile. Memory: about 300 bytes an event. Where the two come
from: `testbed.audit`; how it is told: `analysis.rendering.closing`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

FIELDS = (
    "topic",
    "type",
    "source",
    "key",
    "version",
    "schema version",
    "correlation id",
    "causation id",
    "occurred at",
    "data",
)
"""The names of an event's content, in the order of every `content` here."""

Content = tuple[str, ...]
LookUp = Callable[[Sequence[str]], Mapping[str, Content]]
"""The ledger's content of those of these event ids that it holds now."""


class Committed(NamedTuple):
    """One event of the ledger."""

    id: str
    content: Content
    is_waiting: bool = False
    """Still in the outbox: it may be in the log, it need not."""


class Logged(NamedTuple):
    """One message of the log."""

    id: str
    """Empty: malformed, `error` says why."""
    content: Content
    topic: str
    lane: int
    position: int
    error: str = ""


class Missing(NamedTuple):
    """Committed and sent, as the ledger says; not in the log."""

    id: str
    type: str
    key: str


class Extra(NamedTuple):
    """In the log, never committed."""

    id: str
    type: str
    key: str
    topic: str
    lane: int
    position: int


class Difference(NamedTuple):
    """In both, and not the same."""

    id: str
    topic: str
    lane: int
    position: int
    fields: Mapping[str, tuple[str, str]]
    """Field -> (ledger, log), each cut at 200 characters."""


class Range(NamedTuple):
    """One lane of one topic."""

    messages: int
    first: int
    last: int


@dataclass
class Reconciliation:
    ledger_events: int = 0
    """Committed and sent."""
    waiting_events: int = 0
    log_messages: int = 0
    copies: int = 0
    """Messages beyond the first of their id: allowed, at least once is the promise."""
    missing: list[Missing] = field(default_factory=list)
    extra: list[Extra] = field(default_factory=list)
    differing: list[Difference] = field(default_factory=list)
    malformed: list[Logged] = field(default_factory=list)
    lanes: dict[tuple[str, int], Range] = field(default_factory=dict)
    ledger_digest: str = ""
    """Of id and content of all that was committed and sent, whatever the order; equal to the log's if nothing is
    missing, extra or differing."""
    log_digest: str = ""

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.extra or self.differing or self.malformed)


def reconcile(ledger: Iterable[Committed], log: Iterable[Logged], look_up: LookUp) -> Reconciliation:
    """Every event of `ledger` that is not waiting must be in `log`, and the other way round, with the same content."""
    found = Reconciliation()
    sums = _Sums()
    owed, waiting, seen = dict[str, bytes](), dict[str, bytes](), dict[str, bytes]()
    for event in ledger:
        (waiting if event.is_waiting else owed)[event.id] = _digest(event.id, event.content)
    found.ledger_events, found.waiting_events = len(owed), len(waiting)
    for digest in owed.values():
        sums.ledger += int.from_bytes(digest)
    unknown: dict[str, Logged] = {}
    suspects: list[Logged] = []
    for message in log:
        found.log_messages += 1
        _count_lane(found, message)
        if not message.id:
            found.malformed.append(message)
            continue
        digest = _digest(message.id, message.content)
        before = seen.get(message.id)
        if before is not None:
            found.copies += 1
            if before != digest:
                suspects.append(message)
            continue
        seen[message.id] = digest
        if message.id in owed:
            sums.log += int.from_bytes(digest)
            if owed.pop(message.id) != digest:
                suspects.append(message)
        elif message.id in waiting:
            if waiting[message.id] != digest:
                suspects.append(message)
        else:
            unknown[message.id] = message
    _settle(found, owed, unknown, suspects, look_up, sums)
    found.ledger_digest, found.log_digest = _hex(sums.ledger), _hex(sums.log)
    return found


@dataclass
class _Sums:
    ledger: int = 0
    log: int = 0


def _settle(
    found: Reconciliation,
    owed: Mapping[str, bytes],
    unknown: Mapping[str, Logged],
    suspects: list[Logged],
    look_up: LookUp,
    sums: _Sums,
) -> None:
    now = look_up([*unknown, *(message.id for message in suspects)])
    for message in unknown.values():
        content = now.get(message.id)
        if content is None:
            _, type_, _, key, *_ = message.content
            found.extra.append(Extra(message.id, type_, key, message.topic, message.lane, message.position))
            sums.log += int.from_bytes(_digest(message.id, message.content))
        elif content != message.content:
            suspects.append(message)
    for message in suspects:
        content = now.get(message.id)
        if content is not None and content != message.content:
            found.differing.append(
                Difference(
                    message.id, message.topic, message.lane, message.position, _differences(content, message.content)
                )
            )
    lost = look_up(list(owed))
    for id_ in owed:
        # A clean-up may have taken the row since the ledger was read; then its type and key are not known any more.
        content = lost.get(id_, ("",) * len(FIELDS))
        found.missing.append(Missing(id_, content[1], content[3]))


def _differences(ledger: Content, log: Content) -> dict[str, tuple[str, str]]:
    pairs = zip(FIELDS, ledger, log, strict=True)
    return {name: (ours[:200], theirs[:200]) for name, ours, theirs in pairs if ours != theirs}


def _count_lane(found: Reconciliation, message: Logged) -> None:
    place = message.topic, message.lane
    known = found.lanes.get(place)
    first = message.position if known is None else known.first
    found.lanes[place] = Range((known.messages if known else 0) + 1, first, message.position)


def _digest(id_: str, content: Content) -> bytes:
    return blake2b("\x1f".join((id_, *content)).encode(errors="surrogatepass"), digest_size=16).digest()


def _hex(total: int) -> str:
    return f"{total % 2**128:032x}"
