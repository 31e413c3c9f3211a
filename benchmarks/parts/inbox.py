"""How many messages/s does one consumer process apply, from a real broker into a real database, one effect row each?

Each round fills the topic, lets the worker take a first part that does not count (what was fetched ahead of the
clock), then times the rest up to its last ack. The baseline is the same worker with one message a transaction.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from time import perf_counter
from typing import Any
from uuid import uuid4

import uuid_utils
from sqlalchemy import Connection, Engine, MetaData, text

from ablations.consume import CONSUME_STRATEGIES, worker_class
from ablations.inbox.watermark import Watermark
from benchmarks.parts.rounds import compare_rounds
from core.inbox.handlers import GroupHandler, HandlerResult
from core.inbox.worker import Worker, WorkerOptions
from core.journey import Probe
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker
from core.messaging.topology import Route, Topology
from core.storage.tables import MessagingTables, messaging_tables

GROUP = "counters"
BASELINE = "one-message-a-transaction"
KEYS = 10_000
DATA = b'{"pad":"' + b"x" * 390 + b'"}'
STALLED_S = 60.0
_numbers = count()


@dataclass(frozen=True)
class Variant:
    """What one named line of the result does."""

    worker: type[Worker] = Worker
    copies: int = 1
    """How often each event is published: 2 makes half of the deliveries repeats."""
    own_row: bool = False
    """The handler writes a row of its own beside the effect journal's."""
    one_at_a_time: bool = False
    """The strategy works event by event: its rounds are as short as the baseline's."""


BATCHED = ("none", "ack-first")
ONE_AT_A_TIME = ("check-then-act", "unique-constraint", "lock", "two-stage")
VARIANTS = {
    "inbox": Variant(),
    "inbox-50%-duplicates": Variant(copies=2),
    "inbox-own-row": Variant(own_row=True),
    "inbox-watermark": Variant(Watermark),
    **{name: Variant(worker_class(CONSUME_STRATEGIES[name])) for name in BATCHED},
    **{name: Variant(worker_class(CONSUME_STRATEGIES[name]), one_at_a_time=True) for name in ONE_AT_A_TIME},
}


def run(
    connect: Callable[[Topology], Broker],
    engine: Engine,
    *,
    names: Sequence[str] = tuple(VARIANTS),
    size_messages: int = 40_000,
    baseline_messages: int = 600,
    batch_messages: int = 2_000,
    partitions: int = 6,
    rounds: int = 3,
    seed: int = 1,
) -> Iterator[dict[str, Any]]:
    """One result a name of `VARIANTS`, in the words of `testbed bench --json`, each as soon as it is known.

    Tables `bench_inbox.*` are made anew.
    `engine`: of a database of one's own. `connect`: the adapter for the topology that is handed to it.
    """
    with opened(connect, engine, batch_messages, partitions) as bench:
        for name in names:
            yield bench.measure(name, size_messages, baseline_messages, rounds, seed)


@contextmanager
def opened(
    connect: Callable[[Topology], Broker], engine: Engine, batch_messages: int = 2_000, partitions: int = 6
) -> Iterator["Bench"]:
    """With tables made anew and topics of its own, which are deleted afterwards."""
    tables = _fresh_tables(engine)
    topology = Topology(
        routes={"OrderCreated": Route("orders", "order.created")},
        subscriptions={GROUP: frozenset({"OrderCreated"})},
        partitions=partitions,
        audit=False,
        prefix=f"bench-{uuid4().hex[:8]}.",
    )
    broker = connect(topology)
    admin = broker.admin()
    admin.declare()
    try:
        yield Bench(broker, engine, tables, batch_messages)
    finally:
        admin.delete()
        admin.close()


class Bench:
    """Rounds of any variant over one topic and one database."""

    def __init__(self, broker: Broker, engine: Engine, tables: MessagingTables, batch_messages: int) -> None:
        self._broker = broker
        self._engine = engine
        self._tables = tables
        self._options = WorkerOptions(batch_messages=batch_messages)

    def measure(self, name: str, size: int, baseline_size: int, rounds: int, seed: int) -> dict[str, Any]:
        variant = VARIANTS[name]
        handler = write_own_row if variant.own_row else count_only
        options = self._options
        if variant.one_at_a_time:
            # What is received at once must be a small part of so short a round.
            size, options = baseline_size, replace(options, batch_messages=baseline_size // 10)
        one = replace(self._options, batch_messages=1)
        return compare_rounds(
            lambda: self._round(variant.worker, handler, options, size, variant.copies),
            lambda: self._round(Worker, handler, one, baseline_size, 1),
            rounds,
            seed,
            name=name,
            baseline_name=BASELINE,
        ).as_dict()

    def default_per_s(self, size: int, probe: Probe) -> float:
        """One round of the default inbox, which reports to `probe`."""
        return self._round(Worker, count_only, self._options, size, 1, probe)

    def _round(
        self,
        build: type[Worker],
        handler: GroupHandler,
        options: WorkerOptions,
        size: int,
        copies: int,
        probe: Probe | None = None,
    ) -> float:
        """Deliveries applied or passed over as repeats, a second."""
        prefetch = 2 * options.batch_messages
        subscriber = self._broker.subscriber(GROUP, max(prefetch, 100))
        ahead = max(prefetch, 100) + options.batch_messages
        self._fill(size + ahead, copies)
        try:
            worker = build(self._engine, self._tables, subscriber, GROUP, handler, options, probe)
            total = (size + ahead) // copies * copies
            done = _work(worker, 0, ahead)
            started = perf_counter()
            timed_from = done
            done = _work(worker, done, total)
            return (done - timed_from) / (perf_counter() - started)
        finally:
            subscriber.close()

    def _fill(self, size: int, copies: int) -> None:
        publisher = self._broker.publisher()
        try:
            for start in range(0, size // copies, 2_000):
                batch = [_order() for _ in range(min(2_000, size // copies - start))]
                outcomes = publisher.publish(batch * copies, 30.0)
                if not all(outcome.is_confirmed for outcome in outcomes):
                    raise RuntimeError("the broker did not confirm the bench's own messages; nothing was measured")
        finally:
            publisher.close()


def count_only(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    """The effect journal's row is the one effect row."""
    return HandlerResult(["counted"] * len(envelopes))


def write_own_row(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    """A second one, as a service's own handler would write it."""
    rows = {"ids": [envelope.id for envelope in envelopes], "keys": [envelope.key for envelope in envelopes]}
    connection.execute(
        text(
            "INSERT INTO bench_inbox.applied_order (event_id, key) "
            "SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[]))"
        ),
        rows,
    )
    return HandlerResult(["counted"] * len(envelopes))


def _work(worker: Worker, done: int, until: int) -> int:
    last = perf_counter()
    while done < until:
        received = worker.step()
        done += received
        now = perf_counter()
        last = now if received else last
        if now - last > STALLED_S:
            raise RuntimeError(f"nothing came for {STALLED_S:g} s after {done} of {until} messages")
    return done


def _order() -> Envelope:
    version, key = divmod(next(_numbers), KEYS)
    return Envelope(
        str(uuid_utils.uuid7()),
        "orders",
        "OrderCreated",
        "/shop/Order",
        f"order-{key}",
        version + 1,
        datetime.now(UTC),
        DATA,
    )


def _fresh_tables(engine: Engine) -> MessagingTables:
    metadata = MetaData()
    tables = messaging_tables(metadata, schema="bench_inbox")
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA IF EXISTS bench_inbox CASCADE"))
        connection.execute(text("CREATE SCHEMA bench_inbox"))
        metadata.create_all(connection)
        connection.execute(
            text("CREATE TABLE bench_inbox.applied_order (event_id uuid PRIMARY KEY, key text NOT NULL)")
        )
    return tables
