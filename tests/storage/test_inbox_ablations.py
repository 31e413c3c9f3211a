"""Each wrong consumer shows the anomaly its docstring predicts, at its crash point, and none under calm.

A crash is an exception no worker catches; the next worker is the restarted process. Real processes: `tests/chaos`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, BrokenBarrierError, Thread
from time import perf_counter
from typing import Any

import pytest
from psutil import Process
from sqlalchemy import Connection

from ablations.consume import CONSUME_STRATEGIES, Consume, worker_class
from ablations.inbox.two_stage import TwoStage
from ablations.inbox.watermark import Watermark
from brokers.memory.broker import connect
from brokers.memory.config import MemoryConfig
from core.inbox.handlers import HandlerResult
from core.inbox.retries import RetryPolicy
from core.inbox.worker import Worker, WorkerOptions
from core.inbox.writing import Written
from core.journey import Step
from core.messaging.envelope import Envelope
from tests.storage.inbox_bench import GROUP, QUICK, TOPOLOGY, Bench, bench, count_it, drain, inbox_database, order

__all__ = ["bench", "inbox_database"]

EVERY_CHOICE = [
    *(Consume(inbox=value) for value in ("off", "exception", "upsert", "record_first", "check_then_act", "two_stage")),
    *(Consume(inbox=value) for value in ("lock", "atomic")),
    *(Consume(ack=value) for value in ("before", "after", "never")),
    *(Consume(on_error=value) for value in ("swallow", "requeue", "forever", "log-only")),
    Consume(inbox_key="event"),
    *CONSUME_STRATEGIES.values(),
]


class Killed(BaseException):
    """Not an Exception: nothing in a worker may catch it, as nothing can catch SIGKILL."""


class CrashAt:
    """Dies the first time `step` is reached."""

    def __init__(self, step: Step) -> None:
        self.step: Step | None = step

    def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
        if step == self.step:
            raise Killed


def run_with_crash(bench: Bench, chosen: Consume, step: Step | None, events: Sequence[Envelope]) -> list[str]:
    """Effects after a worker that dies at `step` and its successor; two events are in the batch."""
    bench.publish(*events)
    build = worker_class(chosen)

    def one(**more: Any) -> Worker:
        return build(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK, **more)

    if step is not None:
        doomed = one(probe=CrashAt(step))
        with pytest.raises(Killed):
            drain(doomed)
        doomed.subscriber.close()
    drain(one())
    return bench.effects()


def watermark(bench: Bench, **more: Any) -> Watermark:
    return Watermark(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK, **more)


@pytest.mark.parametrize("chosen", EVERY_CHOICE, ids=lambda chosen: "-".join(chosen))
def test_under_calm_every_consumer_applies_each_event_once(bench: Bench, chosen: Consume) -> None:
    events = [order(n) for n in range(5)]
    assert sorted(run_with_crash(bench, chosen, None, events)) == sorted(e.id for e in events)


@pytest.mark.parametrize(
    ("chosen", "step", "lost", "doubled"),
    [
        (Consume(inbox="check_then_act"), Step.EFFECTED, 0, 1),  # P5
        (Consume(inbox="two_stage"), Step.EFFECTED, 0, 1),  # P5
        (Consume(inbox="lock"), Step.EFFECTED, 0, 1),  # P5
        (Consume(inbox="record_first"), Step.CLAIMED, 1, 0),  # P6
        (Consume(inbox="off"), Step.APPLIED, 0, 3),  # P7
        (Consume(inbox="upsert"), Step.APPLIED, 0, 1),  # P7
        (Consume(ack="after"), Step.APPLIED, 0, 3),  # P7
        (Consume(ack="before", inbox="off"), Step.ACKED, 3, 0),  # P8
        (Consume(ack="before"), Step.ACKED, 3, 0),  # P8: the inbox cannot help
        (Consume(ack="never", inbox="off"), Step.DELIVERED, 0, 0),
        (Consume(inbox="exception"), Step.CLAIMED, 0, 0),
        (Consume(inbox="exception"), Step.EFFECTED, 0, 0),
        (Consume(inbox="exception"), Step.APPLIED, 0, 0),
        *((Consume(), step, 0, 0) for step in (Step.DELIVERED, Step.CLAIMED, Step.EFFECTED, Step.APPLIED, Step.ACKED)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
@pytest.mark.row("S1.20", "S1.24")
def test_a_crash_shows_the_predicted_anomaly_and_only_that(
    bench: Bench, chosen: Consume, step: Step, lost: int, doubled: int
) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(3)]
    applied = run_with_crash(bench, chosen, step, events)
    assert len({e.id for e in events} - set(applied)) == lost
    assert len(applied) - len(set(applied)) == doubled


def test_without_acks_a_restart_delivers_everything_again_and_the_inbox_absorbs_it(bench: Bench) -> None:
    events = [order(n) for n in range(3)]
    handed: list[str] = []

    class Notes:
        def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
            if step == Step.DELIVERED:
                handed.extend(ids)

    bench.publish(*events)
    for _ in range(2):
        build = worker_class(Consume(ack="never"))
        subscriber = bench.broker.subscriber(GROUP)
        drain(build(bench.engine, bench.tables, subscriber, GROUP, count_it, QUICK, Notes()))
        subscriber.close()
    assert len(handed) == 6
    assert sorted(bench.effects()) == sorted(e.id for e in events)


@pytest.mark.row("S1.24")
@pytest.mark.parametrize(("inbox", "effects"), [("check_then_act", 2), ("two_stage", 2), ("lock", 1), ("atomic", 1)])
def test_two_workers_with_the_same_event_at_once(bench: Bench, inbox: str, effects: int) -> None:
    bench.publish(order(1))
    subscriber = bench.broker.subscriber(GROUP)
    delivered = subscriber.receive(10, 1.0)
    both = Barrier(2, timeout=30.0 if effects == 2 else 1.0)

    def together(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        # With a lock or a claim the other one never comes: the barrier breaks, and this one goes on.
        if both.n_waiting == 0 and not both.broken:
            with suppress(BrokenBarrierError):
                both.wait()
        elif not both.broken:
            both.wait()
        return count_it(connection, envelopes)

    def apply() -> None:
        worker_class(Consume(inbox=inbox))(
            bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, together, QUICK
        ).apply(delivered)

    threads = [Thread(target=apply) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.effects()) == effects


@pytest.mark.row("S0.40")
@pytest.mark.parametrize(("inbox_key", "silenced"), [("event", 4), ("group_event", 0)])
def test_with_the_event_as_the_only_key_the_first_of_five_groups_silences_the_others(
    bench: Bench, inbox_key: str, silenced: int
) -> None:
    groups = [f"service-{number}" for number in range(5)]
    broker = connect(
        MemoryConfig(), replace(TOPOLOGY, subscriptions=dict.fromkeys(groups, frozenset({"OrderCreated"})))
    )
    broker.admin().declare()
    five = Bench(bench.engine, bench.tables, broker)
    event = order(1)
    five.publish(event)
    for group in groups:
        build = worker_class(Consume(inbox_key=inbox_key))
        drain(build(five.engine, five.tables, broker.subscriber(group), group, count_it, QUICK))
    done = [five.effects(group) for group in groups]
    assert done[0] == [event.id]
    assert done.count([]) == silenced
    assert done.count([event.id]) == 5 - silenced


@pytest.mark.row("S1.23")
@pytest.mark.parametrize(
    ("on_error", "applied", "letters", "redelivered"),
    [
        ("swallow", [0, 2, 3], 0, False),
        ("log-only", [0, 2, 3], 0, False),
        ("requeue", [0, 2, 3], 0, True),
        ("forever", [0], 0, True),
        ("retry_dlq", [0, 2, 3], 1, False),
    ],
)
def test_what_becomes_of_a_message_that_always_fails(
    bench: Bench, on_error: str, applied: list[int], letters: int, redelivered: bool
) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(4)]
    bench.publish(*events)

    def refuses(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if any(e.id == events[1].id for e in envelopes):
            raise ValueError("no")
        return count_it(connection, envelopes)

    options = WorkerOptions(receive_timeout_s=0.05, retry=RetryPolicy(tries=2, first_delay_s=0.01, jitter=False))
    build = worker_class(Consume(on_error=on_error))
    worker = build(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, refuses, options)
    for _ in range(6):
        worker.step()
    assert bench.effects() == [events[n].id for n in applied]
    assert len(bench.letters()) == letters
    lag = bench.broker.admin().lag(GROUP)["orders"].lag_messages
    assert (lag > 0) == redelivered


def test_requeue_lets_later_messages_of_the_key_overtake(bench: Bench) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(3)]
    bench.publish(*events)
    failures = iter(range(3))  # in its batch, again under a savepoint, alone

    def fails_at_first(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if any(e.id == events[0].id for e in envelopes) and next(failures, None) is not None:
            raise ValueError("not yet")
        return count_it(connection, envelopes)

    build = worker_class(Consume(on_error="requeue"))
    options = WorkerOptions(batch_messages=2, receive_timeout_s=0.05)
    drain(build(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, fails_at_first, options))
    assert sorted(bench.effects()) == sorted(e.id for e in events)
    assert bench.effects() != [e.id for e in events]


@pytest.mark.parametrize("step", [None, Step.DELIVERED, Step.CLAIMED, Step.EFFECTED, Step.APPLIED, Step.ACKED])
def test_a_watermark_applies_each_event_once_at_any_crash_point(bench: Bench, step: Step | None) -> None:
    events = [order(n, key=f"k{n % 2}", sequence=n // 2 + 1) for n in range(6)]
    bench.publish(*events, *events[2:])
    if step is not None:
        doomed = watermark(bench, probe=CrashAt(step))
        with pytest.raises(Killed):
            drain(doomed)
        doomed.subscriber.close()
    worker = watermark(bench)
    drain(worker)
    assert sorted(bench.effects()) == sorted(e.id for e in events)
    assert worker.claims.gap_versions == 0


def test_a_watermark_tells_a_gap_and_takes_what_comes_after_it_too_late_for_a_repeat(bench: Bench) -> None:
    events = [order(n, key="k", sequence=n) for n in (1, 4, 2, 5)]
    bench.publish(*events)
    worker = watermark(bench)
    drain(worker)
    assert bench.effects() == [events[n].id for n in (0, 1, 3)]
    assert worker.claims.gap_versions == 2


def test_a_fact_without_a_sequence_has_no_place_under_a_watermark(bench: Bench) -> None:
    fact, event = order(1, sequence=None), order(2)
    bench.publish(fact, event)
    drain(watermark(bench))
    assert bench.effects() == [event.id]
    assert bench.letters() == [(fact.id, "OrderCreated has no sequence to compare")]


@pytest.mark.row("S1.22")
@pytest.mark.parametrize("events", [4, pytest.param(20_000, marks=pytest.mark.long)])
def test_two_stage_tells_where_each_answer_came_from(
    bench: Bench, events: int, record_property: Callable[[str, object], None]
) -> None:
    """A quarter was handled by another process, a quarter comes twice."""
    orders, quarter = [order(n) for n in range(events)], events // 4
    publish_all(bench, orders[:quarter])
    first = bench.worker(count_it)
    drain(first)
    first.subscriber.close()
    publish_all(bench, [*orders, *orders[quarter : 2 * quarter]])
    worker = TwoStage(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK)
    start_s = perf_counter()
    drain(worker)
    record_property("two_stage_per_s", round((events + quarter) / (perf_counter() - start_s)))
    assert worker.found == {"database": quarter, "new": events - quarter, "memory": quarter}
    assert sorted(bench.effects()) == sorted(one.id for one in orders)


def publish_all(bench: Bench, events: Sequence[Envelope]) -> None:
    for start in range(0, len(events), 1_000):
        bench.publish(*events[start : start + 1_000])


@pytest.mark.row("S1.24")
def test_the_map_of_two_stage_grows_with_each_event_and_never_shrinks(bench: Bench) -> None:
    worker = TwoStage(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK)
    events = [order(n) for n in range(200)]
    sizes = []
    for start in (0, 100):
        bench.publish(*events[start : start + 100])
        drain(worker)
        sizes.append(len(worker.seen))
    assert sizes == [100, 200]
    worker.subscriber.close()
    restarted = TwoStage(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK)
    assert restarted.seen == set(), "the map is its process's own"


@pytest.mark.long
@pytest.mark.row("S1.24")
def test_a_million_ids_in_the_map_of_two_stage_are_more_than_a_hundred_megabytes(bench: Bench) -> None:
    class OnlyTheMap(TwoStage):
        """Every event is new, and what is written of it elsewhere is left out."""

        def is_recorded(self, envelope: Envelope) -> bool:
            return False

        def effect(self, envelope: Envelope) -> Written:
            return Written()

        def record(self, envelope: Envelope, written: Written | None = None) -> bool:
            return True

    worker = OnlyTheMap(bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK)
    before_bytes = Process().memory_info().rss
    for n in range(1_000_000):
        worker.apply_one(order(n, key="k"))
    grown_bytes = Process().memory_info().rss - before_bytes
    assert len(worker.seen) == worker.found["new"] == 1_000_000
    assert 100 < grown_bytes / 1_000_000 < 300, "bytes an id"


IN_BULK = "atomic"


@pytest.mark.row("S1.20")
@pytest.mark.parametrize("repeats_percent", [0, 10, 50])
@pytest.mark.parametrize(
    ("messages", "others"), [(200, ()), pytest.param(20_000, ("record_first", "two_stage"), marks=pytest.mark.long)]
)
def test_an_exception_for_each_repeat_costs_several_times_what_claims_in_bulk_cost(
    bench: Bench,
    messages: int,
    others: Sequence[str],
    repeats_percent: int,
    record_property: Callable[[str, object], None],
) -> None:
    repeated = messages * repeats_percent // 100
    took_s: dict[str, float] = {}
    for inbox in ("exception", IN_BULK, *others):
        events = [order(n) for n in range(messages - repeated)]
        publish_all(bench, [*events, *events[:repeated]])
        worker = worker_class(Consume(inbox=inbox))(
            bench.engine, bench.tables, bench.broker.subscriber(GROUP), GROUP, count_it, QUICK
        )
        handled, start_s = 0, perf_counter()
        while handled < messages:
            handled += worker.step()
        took_s[inbox] = perf_counter() - start_s
        record_property(f"{inbox}_s", round(took_s[inbox], 2))
        worker.subscriber.close()
        assert sorted(bench.effects()[-len(events) :]) == sorted(event.id for event in events)
    # One transaction and one error path a message, against one statement a batch.
    assert took_s["exception"] > 2 * took_s[IN_BULK]
    # What remembers in memory, or records first, still has a transaction or more for each that is new.
    assert all(took_s[inbox] > 2 * took_s[IN_BULK] for inbox in others)


def test_an_unknown_value_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"on_error=later is unknown; allowed: retry_dlq, swallow"):
        worker_class(Consume(on_error="later"))
