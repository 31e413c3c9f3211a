"""What becomes of messages that fail, or are never acked, on each real broker: what articles do, and the default."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import MetaData

from ablations.consume import Consume, worker_class
from core.inbox.retries import PRESETS
from core.inbox.worker import WorkerOptions
from core.journey import Step
from core.messaging.ports import Delivery
from core.messaging.topology import DEAD_LETTER_GROUP
from core.storage.tables import messaging_tables
from tests.chaos.worker_process import GROUP, POISON, count_it
from tests.chaos.worker_world import KEYS, Chaos, chaos, order
from tests.waiting import until

__all__ = ["chaos"]


class Seen:
    """When each message was delivered, and when it was applied, in seconds of one clock."""

    def __init__(self) -> None:
        self.delivered: dict[str, list[float]] = {}
        self.applied: dict[str, float] = {}

    def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
        now_s = time.monotonic()
        for id in ids:
            if step is Step.DELIVERED:
                self.delivered.setdefault(id, []).append(now_s)
            elif step is Step.APPLIED:
                self.applied[id] = now_s

    def deliveries(self) -> int:
        return sum(map(len, self.delivered.values()))


@contextmanager
def working(chaos: Chaos, seen: Seen, **seams: str) -> Iterator[None]:
    """A member of the group in a thread, until the block ends."""
    subscriber, stop = chaos.broker.subscriber(GROUP), threading.Event()
    options = WorkerOptions(receive_timeout_s=0.1, retry=PRESETS["article-s3-kafka"])
    build = worker_class(Consume(**seams))
    worker = build(chaos.engine, messaging_tables(MetaData()), subscriber, GROUP, count_it, options, seen)
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        subscriber.close()
    assert not thread.is_alive()


def letters_of(chaos: Chaos) -> list[Delivery]:
    subscriber = chaos.broker.subscriber(DEAD_LETTER_GROUP)
    found = [letter for _ in range(5) for letter in subscriber.receive(100, 0.3)]
    subscriber.close()
    return found


def owed(chaos: Chaos) -> int:
    return chaos.admin.lag(GROUP)["orders"].lag_messages


@pytest.mark.row("S3.20", "S3.26")
def test_what_is_requeued_turns_in_a_circle_and_by_default_is_a_letter_after_its_third_try(chaos: Chaos) -> None:
    events = [order(number, POISON if number == 5 else b"{}") for number in range(2 * KEYS)]
    poison, behind = events[5], events[5 + KEYS]
    chaos.publish(events)
    requeued, seen = Seen(), Seen()
    with working(chaos, requeued, on_error="requeue"):
        until(lambda: len(requeued.delivered.get(poison.id, [])) > 50, 60.0)
    assert poison.id not in requeued.applied
    assert letters_of(chaos) == []

    # A message behind the poison, and one of every other key: their turn comes at once, its own waits.
    later = [order(number) for number in range(2 * KEYS, 3 * KEYS)]
    chaos.publish(later)
    with working(chaos, seen):
        until(lambda: {poison.id, *(event.id for event in later)} <= seen.applied.keys(), 60.0)
        until(lambda: owed(chaos) == 0, 30.0)
    tries = seen.delivered[poison.id]
    assert len(tries) == 3
    assert all(after - before >= 1.0 for before, after in pairwise(tries))
    assert seen.applied[later[5].id] >= tries[2]
    assert all(seen.applied[event.id] < tries[2] for event in later if event.key != poison.key)
    (letter,) = letters_of(chaos)
    assert letter.envelope == poison
    assert letter.failure is not None
    assert (letter.failed_group, letter.failure.attempts) == (GROUP, 3)
    applied = Counter(chaos.ids("SELECT event_id FROM effect"))
    assert applied == Counter(event.id for event in [*events, *later] if event is not poison)
    assert behind.id in applied


@pytest.mark.row("S4.7")
def test_without_acks_each_restart_gets_everything_again_and_with_them_nothing(chaos: Chaos) -> None:
    events = [order(number) for number in range(2 * KEYS)]
    chaos.publish(events)
    seen = Seen()
    for times in (1, 2):
        with working(chaos, seen, ack="never"):
            until(lambda times=times: seen.deliveries() == times * len(events), 60.0)
    assert {len(moments) for moments in seen.delivered.values()} == {2}
    with working(chaos, seen):
        until(lambda: owed(chaos) == 0, 60.0)
    last = [order(number) for number in range(2 * KEYS, 3 * KEYS)]
    chaos.publish(last)
    with working(chaos, seen):
        until(lambda: {event.id for event in last} <= seen.applied.keys(), 60.0)
    assert seen.deliveries() == 3 * len(events) + len(last)
    applied = chaos.ids("SELECT event_id FROM effect")
    assert Counter(applied) == Counter(event.id for event in [*events, *last])
