"""The driver below the API: what it sends when, skips, and sends again; on a clock that only the test moves."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.open_loop import PATIENCE_S, TICK_S, Events, drive, publishing, receive, schedule_of
from benchmarks.pacer import arrivals
from benchmarks.phases import DRIVER_START_S, driver_start_s
from benchmarks.scenario import Load
from core.domain.events import ProductViewed, from_json
from core.journey import Step
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.messaging.ports import Delivery
from history.recorder import Recorder

START_NS = 1_800_000_000_000_000_000
FIRST_ID = "01890000-0000-7000-8000-0000000000ff"


def load(**changes: object) -> Load:
    given = {"level": "broker", "rate_per_s": 1_000, "warm_up_s": 0, "duration_s": 1, "products": 20}
    return Load.model_validate(given | {"arrivals": "even"} | changes)


class Clock:
    """The history and the stop of a driver: waiting moves the time and nothing else does, but for `takes_s`."""

    def __init__(self, ends_at_s: float = float("inf")) -> None:
        self.ns = START_NS
        self.ends_at_s = ends_at_s
        self.requested_at: dict[str, tuple[int, int]] = {}
        self.order: dict[str, tuple[str, int]] = {}
        self.skipped_ns: list[int] = []

    def now_ns(self) -> int:
        return self.ns

    def requested(
        self,
        ids: Sequence[str],
        intended_ns: Sequence[int],
        keys: Sequence[str] | None = None,
        sequences: Sequence[int] | None = None,
    ) -> None:
        self.requested_at |= {id_: (at_ns, self.ns) for id_, at_ns in zip(ids, intended_ns, strict=True)}
        if keys is not None and sequences is not None:
            self.order |= dict(zip(ids, zip(keys, sequences, strict=True), strict=True))

    def answered(self, ids: Sequence[str], outcomes: Sequence[str]) -> None:
        raise AssertionError("nothing answers at broker level")

    def skipped(self, intended_ns: Sequence[int]) -> None:
        self.skipped_ns += intended_ns

    def is_set(self) -> bool:
        return (self.ns - START_NS) / 1e9 >= self.ends_at_s

    def wait(self, timeout: float | None = None) -> bool:
        self.ns += round((timeout or 0) * 1e9)
        return self.is_set()


Answer = Callable[[Sequence[Envelope]], Sequence[Envelope]]


def driven(plan: Load, answer: Answer, takes_s: float = 0.0, clock: Clock | None = None, batch_messages: int = 10_000
) -> tuple[Clock, list[list[Envelope]]]:  # fmt: skip
    """What was handed over, batch by batch."""
    clock = clock or Clock()
    batches: list[list[Envelope]] = []

    def send(batch: Sequence[Envelope]) -> Sequence[Envelope]:
        batches.append(list(batch))
        clock.ns += round(takes_s * 1e9)
        return answer(batch)

    events = Events(plan, schedule_of(plan, seed=5), FIRST_ID, correlates=False)
    drive(events, START_NS, send, clock, clock, max_waiting=plan.max_in_flight, batch_messages=batch_messages,
          keeps_order=True)  # fmt: skip
    return clock, batches


def all_taken(_: Sequence[Envelope]) -> Sequence[Envelope]:
    return ()


@pytest.mark.parametrize("shape", ["constant", "spike"])
def test_the_driver_follows_the_very_schedule_of_the_http_driver(shape: str) -> None:
    plan = load(shape=shape, arrivals="poisson", warm_up_s=0.2)
    assert list(schedule_of(plan, 3).due_s) == list(arrivals(plan, 3))
    assert schedule_of(plan, 3) == schedule_of(plan, 3)
    assert schedule_of(plan, 3).products != schedule_of(plan, 4).products


def test_everything_due_at_a_tick_goes_in_one_batch_and_nothing_goes_early() -> None:
    clock, batches = driven(load(), all_taken)
    assert sum(map(len, batches)) == 1_000
    assert len(batches) <= 1 / TICK_S + 1
    late_ns = [at_ns - intended_ns for intended_ns, at_ns in clock.requested_at.values()]
    assert 0 <= min(late_ns) <= max(late_ns) <= (TICK_S + 0.001) * 1e9
    assert clock.skipped_ns == []


def test_a_slow_answer_makes_the_next_arrivals_late_and_leaves_none_out() -> None:
    clock, batches = driven(load(), all_taken, takes_s=0.1)
    assert sum(map(len, batches)) == 1_000
    assert len(batches) <= 12
    assert max(at_ns - intended_ns for intended_ns, at_ns in clock.requested_at.values()) >= 0.09e9


def test_what_is_due_beyond_the_cap_is_skipped_and_recorded_with_its_intended_time() -> None:
    clock, batches = driven(load(max_in_flight=30), all_taken, takes_s=0.1)
    assert max(map(len, batches)) == 30
    assert len(clock.requested_at) + len(clock.skipped_ns) == 1_000
    intended = {intended_ns for intended_ns, _ in clock.requested_at.values()}
    assert len(intended | set(clock.skipped_ns)) == 1_000
    assert len(clock.skipped_ns) > 500


def test_a_batch_is_no_larger_than_asked_for() -> None:
    _, batches = driven(load(max_in_flight=1_000), all_taken, takes_s=0.1, batch_messages=50)
    assert max(map(len, batches)) == 50
    assert sum(map(len, batches)) == 1_000


def test_versions_of_a_key_count_from_one_without_a_gap_in_the_order_of_sending() -> None:
    clock, batches = driven(load(hot_ratio=0.5), all_taken)
    seen: Counter[str] = Counter()
    for envelope in (envelope for batch in batches for envelope in batch):
        seen[envelope.key] += 1
        assert envelope.sequence == seen[envelope.key]
        assert clock.order[envelope.id] == (envelope.key, envelope.sequence)
    assert 450 < seen["1"] < 600


def test_ids_are_unique_uuids_and_the_body_is_an_event_of_the_size_asked_for() -> None:
    _, batches = driven(load(body_bytes=300), all_taken)
    envelopes = [envelope for batch in batches for envelope in batch]
    assert len({uuid.UUID(envelope.id) for envelope in envelopes}) == 1_000
    assert {uuid.UUID(envelope.id).version for envelope in envelopes} == {7}
    assert {len(envelope.data) for envelope in envelopes} == {299, 300}
    read = from_json(envelopes[7].type, 1, envelopes[7].data)
    assert isinstance(read, ProductViewed)
    assert str(read.product_id) == envelopes[7].key


def test_what_was_not_confirmed_goes_again_before_anything_later() -> None:
    tries: Counter[str] = Counter()
    unconfirmed: list[list[Envelope]] = []

    def every_third_fails_once(batch: Sequence[Envelope]) -> Sequence[Envelope]:
        tries.update(envelope.id for envelope in batch)
        unconfirmed.append([each for number, each in enumerate(batch) if number % 3 == 0 and tries[each.id] == 1])
        return unconfirmed[-1]

    # So slow that later ones wait behind each batch.
    plan = load(max_in_flight=1_000)
    _, batches = driven(plan, every_third_fails_once, takes_s=0.05, batch_messages=40)
    assert set(tries.values()) == {1, 2}
    for again, following in zip(unconfirmed, [*batches[1:], []], strict=True):
        assert following[: len(again)] == again


def test_a_broker_that_never_answers_is_given_up_in_the_end() -> None:
    clock, batches = driven(load(max_in_flight=100), lambda batch: batch, takes_s=1.0)
    assert {len(batch) for batch in batches[1:]} == {100}
    assert PATIENCE_S <= (clock.ns - START_NS) / 1e9 - 1 <= PATIENCE_S + 2
    assert len(clock.skipped_ns) == 900


def test_a_driver_that_is_asked_to_stop_stops() -> None:
    _, batches = driven(load(), all_taken, clock=Clock(ends_at_s=0.5))
    assert 480 <= sum(map(len, batches)) <= 520


class Steps:
    """A probe that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, list[str], list[str] | None]] = []

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        self.lines.append((str(step), list(ids), None if outcomes is None else list(map(str, outcomes))))


class Publishes:
    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return self.outcomes

    def close(self) -> None: ...


def made(count: int) -> list[Envelope]:
    plan = load()
    return Events(plan, schedule_of(plan, 1), FIRST_ID, correlates=False).make(0, count, datetime.now(UTC))


def test_only_unknown_outcomes_are_sent_again_and_every_outcome_is_written_down() -> None:
    probe, (one, two, three) = Steps(), made(3)
    send = publishing(Publishes([CONFIRMED, unknown("silence"), refused("too large")]), probe, 5)
    assert send([one, two, three]) == [two]
    ids = [one.id, two.id, three.id]
    assert probe.lines == [("attempted", ids, None), ("confirmed", ids, ["confirmed", "unknown", "refused"])]
    assert list(publishing(Publishes([CONFIRMED] * 3), probe, 5)([one, two, three])) == []


class Hands:
    """A subscriber with one batch; then it asks the loop to stop."""

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries, self.acked = deliveries, list[Delivery]()
        self.stopped = False

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        found, self.deliveries = self.deliveries, ()
        return found

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked += deliveries
        self.stopped = True

    def is_set(self) -> bool:
        return self.stopped

    def wait(self, timeout: float | None = None) -> bool:
        return self.stopped


def test_the_receiver_writes_down_what_it_was_handed_before_it_acks() -> None:
    one, two = made(2)
    malformed = Delivery(None, "t", 0, 3, error="no id")
    subscriber = Hands([Delivery(one, "t", 0, 1), Delivery(two, "t", 0, 2), malformed])
    probe, odd = Steps(), list[Delivery]()
    receive(subscriber, "receiver", probe, subscriber, 10, odd.append)  # type: ignore[arg-type]
    assert [line[:2] for line in probe.lines] == [("delivered", [one.id, two.id]), ("acked", [one.id, two.id])]
    assert subscriber.acked[-1] is malformed
    assert odd == [malformed]


def test_a_driver_with_many_arrivals_has_time_to_make_its_schedule() -> None:
    assert driver_start_s(load(level="api", rate_per_s=50_000)) == DRIVER_START_S
    assert driver_start_s(load(rate_per_s=50_000, duration_s=30)) == pytest.approx(DRIVER_START_S + 6)


def test_the_history_keeps_key_and_sequence_where_no_database_does(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "driver")
    recorder.requested(["a", "b"], [1, 2], ["k", "l"], [1, 1])
    recorder.requested(["c"], [3])
    with pytest.raises(ValueError, match="2 ids and 1 of keys"):
        recorder.requested(["a", "b"], [1, 2], ["k"], [1, 1])
    recorder.close()
    lines = [json.loads(line) for line in recorder.path.read_text().splitlines()][1:3]
    assert (lines[0]["keys"], lines[0]["sequences"]) == (["k", "l"], [1, 1])
    assert "keys" not in lines[1]
