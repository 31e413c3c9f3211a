"""Is an adapter as fast as the bare client at the same settings? Publish confirmed, receive and ack, two sizes.

Both sides do the same work in the same process: a topic and a group each, the same lanes, keys and bodies, made
beforehand; each round publishes and then receives all that it published, so no backlog grows. The bare client and the
vendor's tool are handed in (`Bare`): no adapter is named here. Not here: how rounds become a ratio (`rounds`).
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import psutil

from benchmarks.parts.rounds import Result, alternate, as_document, result_of
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker, Delivery, Publisher, Subscriber
from core.messaging.topology import Route, Topology

SIZES_BYTES = (512, 4096)
TAKE_MESSAGES = 500
"""How many a receive asks for on both sides, and how many are acked at once."""
UNCOUNTED_MESSAGES = 3_000
"""Received before a round's clock starts, on both sides: joining the group and the first fetches are no rate."""
ROUND_S, PROBE_MESSAGES, MOST_MESSAGES = 2.0, 10_000, 300_000
"""A round holds what our side receives in about this time, as a first round that does not count tells, and no more than
the last: in a shorter one mostly the client's own queue is read, or one stall of a tenth of a second decides."""
STALL_S = 60.0
"""A round in which nothing moves for so long has failed."""
OURS, BARE = "bench-ours", "bench-bare"
EVENT_KEY = {OURS: "bench.ours", BARE: "bench.bare"}
KEYS = 1_000

TOPOLOGY = Topology(
    routes={"OursMade": Route(OURS, EVENT_KEY[OURS]), "BareMade": Route(BARE, EVENT_KEY[BARE])},
    subscriptions={OURS: frozenset({"OursMade"}), BARE: frozenset({"BareMade"})},
    partitions=6,
    # The audit stream would be a second copy on one broker only.
    audit=False,
)
"""One topic and one group a side; give it a prefix of its own with `dataclasses.replace`."""


@dataclass(frozen=True)
class Bare:
    """The bare client on topic and group `BARE`, kept over the rounds, and the vendor's tool where there is one."""

    name: str
    publish: Callable[[Sequence[bytes], Sequence[str]], float]
    """Bodies and their keys -> seconds until all were confirmed."""
    receive: Callable[[int, int], float]
    """Two counts -> seconds that a fresh subscriber takes to receive and ack the second after the first."""
    close: Callable[[], None]
    vendor_publish_per_s: Callable[[int], float] | None = None
    """Size in bytes -> messages/s of the vendor's tool on the same broker."""
    vendor_receive_per_s: Callable[[int], float] | None = None


class Rates(NamedTuple):
    publish_per_s: float
    receive_per_s: float


def run(
    broker: Broker,
    bare: Bare,
    *,
    sizes_bytes: Sequence[int] = SIZES_BYTES,
    round_s: float = ROUND_S,
    batch_messages: int = 5_000,
    rounds: int = 7,
    seed: int = 1,
) -> Iterator[dict[str, Any]]:
    """The rows of `testbed bench adapter --json`, two a size as soon as they are known.

    `broker` was connected with `TOPOLOGY` (and a prefix), undeclared.
    Declares it and deletes it again. The vendor's tool runs once a size, after the rounds.
    """
    admin = broker.admin()
    admin.declare()
    publisher = broker.publisher()
    try:
        for size_bytes in sizes_bytes:
            for row in compare(broker, publisher, bare, size_bytes, round_s, batch_messages, rounds, seed):
                yield row.as_dict()
    finally:
        publisher.close()
        bare.close()
        admin.delete()
        admin.close()


def compare(
    broker: Broker,
    publisher: Publisher,
    bare: Bare,
    size_bytes: int,
    round_s: float,
    batch_messages: int,
    rounds: int,
    seed: int,
) -> list[Result]:
    """Publish and receive at one size. Each round's subscriber is a fresh one: it has fetched nothing beforehand."""

    def ours(events: Sequence[Envelope]) -> Rates:
        publish_s = publish_all(publisher, events, batch_messages)
        counted = len(events) - UNCOUNTED_MESSAGES
        subscriber = broker.subscriber(OURS)
        try:
            receive_s(subscriber, UNCOUNTED_MESSAGES)
            return Rates(len(events) / publish_s, counted / receive_s(subscriber, counted))
        finally:
            subscriber.close()

    def baseline(events: Sequence[Envelope]) -> Rates:
        publish_s = bare.publish([event.data for event in events], [event.key for event in events])
        counted = len(events) - UNCOUNTED_MESSAGES
        return Rates(len(events) / publish_s, counted / bare.receive(UNCOUNTED_MESSAGES, counted))

    probed = ours(events_of(PROBE_MESSAGES, size_bytes))
    messages = min(max(int(round_s * probed.receive_per_s), PROBE_MESSAGES), MOST_MESSAGES)
    events = events_of(messages, size_bytes)
    # Who publishes and receives does not hold all its events: they are no matter for the collector of either side.
    gc.collect()
    gc.freeze()
    pairs = alternate(partial(ours, events), partial(baseline, events), rounds)
    published = result_of(
        [(mine.publish_per_s, theirs.publish_per_s) for mine, theirs in pairs],
        seed,
        name=f"publish-{size_bytes}",
        baseline_name=bare.name,
    )
    received = result_of(
        [(mine.receive_per_s, theirs.receive_per_s) for mine, theirs in pairs],
        seed,
        name=f"receive-{size_bytes}",
        baseline_name=bare.name,
    )
    return [
        with_vendor(published, bare.vendor_publish_per_s, size_bytes),
        with_vendor(received, bare.vendor_receive_per_s, size_bytes),
    ]


def with_vendor(result: Result, tool: Callable[[int], float] | None, size_bytes: int) -> Result:
    return result if tool is None else result.beside_vendor(tool(size_bytes))


def events_of(count: int, size_bytes: int) -> list[Envelope]:
    """Of many keys, each body of that size."""
    body = b'{"x": "' + b"x" * (size_bytes - 9) + b'"}'
    return envelopes([f"k-{number % KEYS}" for number in range(count)], [body] * count)


def envelopes(keys: Sequence[str], bodies: Sequence[bytes]) -> list[Envelope]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Envelope(f"01890000-0000-7000-8000-{number:012x}", OURS, "OursMade", "/shop/bench", key, number + 1, at, body)
        for number, (key, body) in enumerate(zip(keys, bodies, strict=True))
    ]


def publish_all(publisher: Publisher, batch: Sequence[Envelope], batch_messages: int) -> float:
    """Seconds until all are confirmed; raises RuntimeError if one is not: its rate would count what is not there."""
    left = iter(batch)
    started = time.perf_counter()
    while part := list(islice(left, batch_messages)):
        outcomes = publisher.publish(part, STALL_S)
        if lacking := [outcome for outcome in outcomes if not outcome.is_confirmed]:
            raise RuntimeError(f"{len(lacking)} of {len(part)} messages were not confirmed, the first: {lacking[0]}")
    return time.perf_counter() - started


def receive_s(subscriber: Subscriber, count: int) -> float:
    """Seconds until exactly so many more were received and acked; raises RuntimeError if they do not come."""
    left = count
    started = time.perf_counter()
    while left:
        batch = take(subscriber, min(TAKE_MESSAGES, left))
        if malformed := next((delivery for delivery in batch if delivery.envelope is None), None):
            raise RuntimeError(f"a malformed message in the bench: {malformed.error}")
        subscriber.ack(batch)
        left -= len(batch)
    return time.perf_counter() - started


def take(subscriber: Subscriber, most_messages: int = TAKE_MESSAGES) -> Sequence[Delivery]:
    batch = subscriber.receive(most_messages, STALL_S)
    if not batch:
        raise RuntimeError(f"nothing came for {STALL_S:g} s although more was published")
    return batch


def stopped_consumer(
    broker: Broker, *, backlog_bytes: int = 256 * 1024 * 1024, size_bytes: int = 4096, hold_s: float = 5.0
) -> dict[str, Any]:
    """How much this process grows while a subscriber holds its first batch unacked before a backlog: must be bounded.

    `broker` as in `run`. Each figure is in bytes of resident memory; the backlog is many times what should be fetched.
    """
    admin = broker.admin()
    admin.declare()
    publisher, subscriber = broker.publisher(), broker.subscriber(OURS)
    try:
        per_batch = 2_000
        batch = events_of(per_batch, size_bytes)
        for _ in range(max(1, backlog_bytes // (size_bytes * per_batch))):
            publish_all(publisher, batch, per_batch)
        process = psutil.Process()
        before_bytes = process.memory_info().rss
        held = take(subscriber)
        peak_bytes = before_bytes
        until = time.monotonic() + hold_s
        while time.monotonic() < until:
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            time.sleep(0.05)
        return {
            "name": "stopped-consumer",
            "backlog_bytes": backlog_bytes,
            "held_messages": len(held),
            "growth_bytes": peak_bytes - before_bytes,
            "hold_s": hold_s,
        }
    finally:
        publisher.close()
        subscriber.close()
        admin.delete()
        admin.close()


def document(broker_name: str, profile: str, rows: list[dict[str, Any]], memory: dict[str, Any]) -> dict[str, Any]:
    """What `testbed bench adapter --json` prints: the rows, and how memory behaved before a stopped consumer."""
    return {**as_document("adapter", broker_name, profile, []), "results": rows, "memory": memory}
