"""Where an outbox relay usually gives way: few keys, one key with most events, a long backlog, a table full of history,
a second process, five groups. Each case beside the plain case, in alternating rounds.

A round writes its events, then measures from the relays' start (with processes: from the writer's commit) until they
were cleared. The rate of `one-key-30%` is that of the events of the other keys.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sqlalchemy import Engine, MetaData

from benchmarks.parts.relay import Countdown, Outbox, drain_s
from benchmarks.parts.rounds import compare_rounds
from core.journey import Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Publisher
from core.outbox.relay import Relay, RelayOptions
from core.storage.database import create_database_engine
from core.storage.schema import create_schema
from core.storage.tables import BUCKETS, MessagingTables, messaging_tables

MakesPublisher = Callable[[], Publisher]
"""Can be pickled: a relay in a process of its own makes its publisher there."""
ONE_GROUP, FIVE_GROUPS = "one", "five"
HOT_KEY = "bench-hot"
HOT_OF_TEN = 3
"""Of ten events in a row so many are of the hot key."""
OLD_EVENTS_A_STATEMENT = 500_000
TRIED_BATCHES_MESSAGES = (500, 1_000, 4_000, 8_000)


@dataclass(frozen=True)
class Load:
    """What one round moves, and by what."""

    messages: int = 20_000
    keys: int = 10_000
    has_hot_key: bool = False
    counts_others: bool = False
    """Only events that are never of the hot key are counted; the same events with and without one."""
    processes: int = 0
    """0: a relay in this process."""
    batch_messages: int = RelayOptions().batch_messages
    groups: str = ONE_GROUP
    old_events: int = 0
    """Cleared events in the table before the round."""


PLAIN = Load()
OTHERS = Load(messages=30_000, counts_others=True)
ALONE = Load(messages=60_000, processes=1)
CASES: Mapping[str, tuple[Load, str, Load]] = {
    "10-keys": (replace(PLAIN, keys=10), "10,000 keys", PLAIN),
    "one-key-30%": (replace(OTHERS, has_hot_key=True), "no hot key", OTHERS),
    "two-processes": (replace(ALONE, processes=2), "one process", ALONE),
    "five-groups-and-audit": (replace(PLAIN, groups=FIVE_GROUPS), "one group", PLAIN),
    "backlog-200000": (replace(PLAIN, messages=200_000), "20,000 waiting", PLAIN),
    "old-events-10M": (replace(PLAIN, old_events=10_000_000), "an empty table", PLAIN),
}
"""Name -> load, name of the baseline, its load."""
BEST_BATCH = "default-batch"
NAMES = (*CASES, BEST_BATCH)


def run(
    engine: Engine,
    publishers: Mapping[str, MakesPublisher],
    *,
    names: Sequence[str],
    size_bytes: int = 400,
    rounds: int = 5,
    seed: int = 1,
    round_timeout_s: float = 180.0,
) -> Iterator[dict[str, Any]]:
    """One row a case, as `testbed bench --json` prints them, each as soon as it is known.

    `publishers`: `ONE_GROUP` and `FIVE_GROUPS` -> publisher to topics that so many groups read.
    """
    bench = Bench(engine, publishers, size_bytes, round_timeout_s)
    for name in names:
        if name == BEST_BATCH:
            best = bench.best_batch()
            ours, beside, baseline = PLAIN, f"batch of {best.batch_messages:,}", best
        else:
            ours, beside, baseline = CASES[name]
        result = compare_rounds(
            lambda load=ours: bench.rate_per_s(load),  # type: ignore[misc]
            lambda load=baseline: bench.rate_per_s(load),  # type: ignore[misc]
            rounds,
            seed,
            name=name,
            baseline_name=beside,
        )
        yield result.as_dict()


class Bench:
    """Rounds of any load over one database."""

    def __init__(
        self, engine: Engine, publishers: Mapping[str, MakesPublisher], size_bytes: int, round_timeout_s: float
    ) -> None:
        self._engine, self._publishers, self._size_bytes = engine, publishers, size_bytes
        self._round_timeout_s = round_timeout_s
        self._versions = count(1)
        self._tables: dict[int, MessagingTables] = {}

    def rate_per_s(self, load: Load) -> float:
        """Of one round."""
        tables = self._tables_of(load.old_events)
        outbox = Mixed(self._engine, tables, self._size_bytes, load, self._versions)
        counted = sum(map(outbox.counts, range(load.messages)))
        if load.processes:
            return counted / self._processes_s(tables, outbox, load)
        outbox.fill(load.messages)
        sender = self._publishers[load.groups]()
        options = RelayOptions(batch_messages=load.batch_messages)
        countdown = CountdownOf(outbox.counted_ids) if load.counts_others else Countdown(counted)
        try:
            took_s = drain_s(
                [lambda probe: Relay(self._engine, tables, sender, options, probe)],
                countdown,
                self._round_timeout_s,
            )
        finally:
            sender.close()
        return counted / took_s

    def best_batch(self) -> Load:
        """The quickest of a few batch sizes, one round each after one that does not count."""
        loads = [replace(PLAIN, batch_messages=messages) for messages in TRIED_BATCHES_MESSAGES]
        self.rate_per_s(loads[0])
        return max(loads, key=self.rate_per_s)

    def _processes_s(self, tables: MessagingTables, outbox: "Mixed", load: Load) -> float:
        schema = str(tables.event.schema)
        url = self._engine.url.render_as_string(hide_password=False)
        with _relay_processes(url, schema, self._publishers[load.groups], load.processes) as left:
            deadline = time.monotonic() + self._round_timeout_s
            while self._owners(tables) < load.processes:
                _wait(deadline, f"{load.processes} relays did not share the buckets")
            left.value = load.messages
            with self._engine.begin() as connection:
                outbox.fill_in(connection, load.messages)
            started_at = time.perf_counter()
            while left.value > 0:
                _wait(deadline, f"{left.value} events had not left the outbox")
            return time.perf_counter() - started_at

    def _owners(self, tables: MessagingTables) -> int:
        """Relays that hold about their share of the buckets."""
        with self._engine.connect() as connection:
            lease = tables.bucket_lease.fullname
            held = connection.exec_driver_sql(
                f"SELECT count(*) FROM {lease} WHERE owner IS NOT NULL AND leased_until > clock_timestamp() "
                "GROUP BY owner"
            ).scalars()
            counts = list(held)
        is_shared = sum(counts) == BUCKETS and max(counts) - min(counts) <= 1
        return len(counts) if is_shared else 0

    def _tables_of(self, old_events: int) -> MessagingTables:
        """A schema for each amount of history, made when first needed."""
        if old_events not in self._tables:
            metadata = MetaData()
            tables = messaging_tables(metadata, f"bench_relay_{old_events}")
            create_schema(self._engine, metadata, tables)
            fill_old(self._engine, tables, old_events)
            self._tables[old_events] = tables
        return self._tables[old_events]


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{what} in time")
    time.sleep(0.002)


class Mixed(Outbox):
    """The plain outbox's events, some of them of one hot key."""

    def __init__(
        self, engine: Engine, tables: MessagingTables, size_bytes: int, load: Load, versions: "count[int]"
    ) -> None:
        super().__init__(engine, tables, load.keys, size_bytes, "orders", "OrderCreated", versions)
        self._load = load
        self.counted_ids: set[str] = set()

    def counts(self, place: int) -> bool:
        return not self._load.counts_others or place % 10 >= HOT_OF_TEN

    def _event(self, place: int) -> Envelope:
        event = super()._event(place)
        if self._load.counts_others and self.counts(place):
            self.counted_ids.add(event.id)
        return event._replace(key=HOT_KEY) if self._load.has_hot_key and place % 10 < HOT_OF_TEN else event


class CountdownOf(Countdown):
    """Counts only certain events."""

    def __init__(self, ids: set[str]) -> None:
        super().__init__(len(ids))
        self._ids = ids

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is Step.CLEARED:
            super().reach(step, list(self._ids.intersection(ids)))


@contextmanager
def _relay_processes(url: str, schema: str, make_publisher: MakesPublisher, processes: int) -> Iterator[Any]:
    """Relays in processes of their own; yields the shared number of events left, which they count down."""
    context = multiprocessing.get_context("spawn")
    stop, left = context.Event(), context.Value("q", 0)
    children = [
        context.Process(target=_relay_process, args=(url, schema, make_publisher, stop, left), daemon=True)
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    try:
        yield left
    finally:
        stop.set()
        for child in children:
            child.join(30)
            if child.is_alive():
                child.kill()
                child.join()


def _relay_process(url: str, schema: str, make_publisher: MakesPublisher, stop: Any, left: Any) -> None:
    engine = create_database_engine(url)
    publisher = make_publisher()
    try:
        Relay(engine, messaging_tables(MetaData(), schema), publisher, probe=SharedCountdown(left)).run(stop)
    finally:
        publisher.close()
        engine.dispose()


class SharedCountdown:
    """A probe that takes what was cleared off a number shared between processes."""

    def __init__(self, left: Any) -> None:
        self._left = left

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is Step.CLEARED:
            with self._left.get_lock():
                self._left.value -= len(ids)


def fill_old(engine: Engine, tables: MessagingTables, events: int) -> None:
    """Events that left the outbox long ago: rows of `event` and `cleared` as a relay leaves them."""
    event, cleared = tables.event.fullname, tables.cleared.fullname
    for first in range(0, events, OLD_EVENTS_A_STATEMENT):
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(
                f"INSERT INTO {event} (event_id, topic, event_type, aggregate_type, aggregate_id, sequence, payload) "
                "SELECT gen_random_uuid(), 'orders', 'OrderCreated', 'bench', 'old-' || n %% 10000, n, '{}' "
                f"FROM generate_series({first + 1}, {min(events, first + OLD_EVENTS_A_STATEMENT)}) n"
            )
    if events:
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(
                f"INSERT INTO {cleared} (event_ids) SELECT array_agg(id) FROM {event} GROUP BY id / 2000"
            )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql(f"VACUUM ANALYZE {event}")
