"""How old is the oldest message that a group owes? Looked up in the topic's audit stream.

Nobody may look at the head of a queue with a single active consumer, and a quorum queue does not tell its time. But the
audit stream has the same messages of a lane in the same order as the group's queue: the oldest of n owed ones is the
n-th from its end. Exact within the stream's last few hundred entries and half a second; further back the place is
worked out from the mix of lanes and types in those. While a key waits for a retry and later ones are acked, it is the
age of an oldest message in an unbroken run of n, so less than the truth.
"""

from collections.abc import Generator, Mapping
from contextlib import closing
from time import monotonic
from typing import Any, NamedTuple

from brokers.rabbitmq.codec import published_ms

TAIL_MESSAGES = 300
FRESH_S = 0.5
"""So long a tail is used again: the groups of a topic are asked one after the other."""
_IDLE_S = 0.03
_FIRST_S = 2.0
_PREFETCH = 1_000


class Entry(NamedTuple):
    offset: int
    routing_key: str
    published_ms: int


class AuditTails:
    def __init__(self) -> None:
        self._tails: dict[str, tuple[float, list[Entry]]] = {}

    def oldest_ms(self, connection: Any, stream: str, owed: Mapping[frozenset[str], int]) -> int | None:
        """`owed`: how many of each lane, by the routing keys that reach its queue. None: the stream is empty."""
        tail = self._tail(connection, stream)
        place = oldest_place(tail, owed)
        if place is None or isinstance(place, Entry):
            return place.published_ms if place else None
        with closing(_entries(connection, stream, place)) as entries:
            return next((entry.published_ms for entry in entries if entry.offset >= place), None)

    def _tail(self, connection: Any, stream: str) -> list[Entry]:
        read_at, tail = self._tails.get(stream, (0.0, []))
        if tail and monotonic() - read_at < FRESH_S:
            return tail
        read_at = monotonic()
        with closing(_entries(connection, stream, "last")) as entries:
            last = next(entries, None)
        tail = [] if last is None else list(_entries(connection, stream, max(0, last.offset - TAIL_MESSAGES)))
        self._tails[stream] = (read_at, tail)
        return tail


def oldest_place(tail: list[Entry], owed: Mapping[frozenset[str], int]) -> Entry | int | None:
    """The oldest owed entry if the tail has it, else the offset where it should be; None of an empty tail."""
    found: list[Entry] = []
    offsets: list[int] = []
    for keys, count in owed.items():
        lane = [entry for entry in tail if entry.routing_key in keys]
        if 0 < count <= len(lane):
            found.append(lane[-count])
        elif count and tail:
            # Messages of this lane are so many entries apart.
            offsets.append(max(0, tail[-1].offset - count * len(tail) // max(1, len(lane))))
    if offsets:
        return min(offsets)
    return min(found, key=lambda entry: entry.published_ms, default=None)


def _entries(connection: Any, stream: str, start: int | str) -> Generator[Entry, None, None]:
    """From `start` to the end, at most a thousand; markers are left out. A chunk comes as a whole, so a short idle
    moment is the end; if it is not, a delay comes out longer, never shorter.

    Whoever does not read it to the end closes it: closing asks the broker, and where that is gone the error is the
    caller's. Left to the interpreter it would be printed and lost.
    """
    channel = connection.channel()
    try:
        channel.basic_qos(prefetch_count=_PREFETCH)
        deadline, any_came = monotonic() + _FIRST_S, False
        arguments = {"x-stream-offset": start}
        for method, properties, _ in channel.consume(stream, arguments=arguments, inactivity_timeout=_IDLE_S):
            if method is None:
                if any_came or monotonic() >= deadline:
                    return
                continue
            any_came = True
            headers = properties.headers or {}
            at_ms = published_ms(headers)
            if at_ms is not None:
                yield Entry(int(headers["x-stream-offset"]), method.routing_key, at_ms)
    finally:
        if channel.is_open:
            channel.close()
