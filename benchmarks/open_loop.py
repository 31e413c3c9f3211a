"""Send events at their intended times without HTTP: the driver of loads at outbox and broker level; and receive them.

Open loop: what is due at a tick is sent together, whatever became of the batch before it; only one batch is under way,
so a slow answer makes the next arrivals late, and lateness counts (latency runs from the intended time). More than the
cap never waits: what is due beyond it is not sent, and recorded. All that can be is made before the first arrival, and
nothing below is done message by message that can be done by columns.
Not here: when arrivals are due (`pacer`), how the processes are put together (`testbed.driving`).
"""

import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from operator import add, itemgetter
from typing import Protocol

from sqlalchemy import Engine

from benchmarks.pacer import arrivals
from benchmarks.scenario import Load
from core.domain.events import EVENT_TYPES, ProductViewed, to_json
from core.inbox.retries import is_transient
from core.inbox.worker import Stop
from core.journey import Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Status
from core.messaging.ports import Delivery, Publisher, Subscriber
from core.outbox.rows import EventSink

TICK_S = 0.005
"""Arrivals due within it are sent together."""
PAUSE_S = 0.1
"""After a batch of which nothing was confirmed."""
PATIENCE_S = 60.0
"""How long after the last arrival what is unconfirmed is still sent again."""
EVENT_TYPE = "ProductViewed"
"""Of all events there are, the one that needs least of the shop: one group takes it and adds one to a counter."""
_ID, _KEY, _SEQUENCE = itemgetter(0), itemgetter(4), itemgetter(5)

Send = Callable[[Sequence[Envelope]], Sequence[Envelope]]
"""Sends a batch, and returns what of it is to be sent again, in order."""


class History(Protocol):
    """A `Recorder`, as far as the driver needs it; its clock is the schedule's."""

    def now_ns(self) -> int: ...

    def requested(
        self,
        ids: Sequence[str],
        intended_ns: Sequence[int],
        keys: Sequence[str] | None = None,
        sequences: Sequence[int] | None = None,
    ) -> None: ...

    def answered(self, ids: Sequence[str], outcomes: Sequence[str]) -> None: ...

    def skipped(self, intended_ns: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """Every arrival of a run, by column: the same for a seed on every broker."""

    due_s: "array[float]"
    """Ascending; the load phase starts at 0."""
    products: "array[int]"
    """From 1: the key."""
    sequences: "array[int]"
    """1, 2, 3 … of each product: its version, by which order is judged."""


def schedule_of(load: Load, seed: int) -> Schedule:
    due_s = array("d", arrivals(load, seed))
    chance, hot, many = random.Random(f"products {seed}").random, load.hot_ratio, load.products
    versions = [0] * (many + 1)
    products, sequences = array("I"), array("I")
    for _ in range(len(due_s)):
        product = 1 if hot and chance() < hot else 1 + int(chance() * many)
        versions[product] += 1
        products.append(product)
        sequences.append(versions[product])
    return Schedule(due_s, products, sequences)


class Events:
    """The events of a schedule, made by columns when they are due."""

    def __init__(self, load: Load, schedule: Schedule, first_id: str, correlates: bool) -> None:
        """`first_id`: a fresh UUID; the events have its first half and count on in the second.

        `correlates`: each names itself as its correlation, by which the ledger leads back to its intended time.
        """
        kind = EVENT_TYPES[EVENT_TYPE]
        self.schedule = schedule
        self._correlates = correlates
        self._topic, self._source, self._version = kind.topic, f"/shop/{kind.aggregate_type}", kind.schema_version
        self._head = first_id[:24]
        self._keys = [str(product) for product in range(load.products + 1)]
        views = (ProductViewed(product_id=product, customer_id="load") for product in range(load.products + 1))
        self._starts = [to_json(view)[:-1] + b',"filler":"' for view in views]
        self._end = b"x" * max(0, load.body_bytes - len(self._starts[-1]) - 2) + b'"}'

    def __len__(self) -> int:
        return len(self.schedule.due_s)

    def make(self, begin: int, end: int, occurred_at: datetime) -> list[Envelope]:
        """The arrivals `begin` up to `end`."""
        products = self.schedule.products[begin:end]
        head = self._head
        ids = [f"{head}{number:012x}" for number in range(begin, end)]
        columns = zip(
            ids,
            repeat(self._topic),
            repeat(EVENT_TYPE),
            repeat(self._source),
            map(self._keys.__getitem__, products),
            self.schedule.sequences[begin:end],
            repeat(occurred_at),
            map(add, map(self._starts.__getitem__, products), repeat(self._end)),
            repeat(self._version),
            ids if self._correlates else repeat(None),
            repeat(None),
            repeat(()),
            strict=False,
        )
        # tuple.__new__: an Envelope made by its own constructor costs four times as much.
        return list(map(tuple.__new__, repeat(Envelope), columns))


def drive(
    events: Events,
    start_ns: int,
    send: Send,
    history: History,
    stop: Stop,
    *,
    max_waiting: int,
    batch_messages: int,
    keeps_order: bool,
) -> None:
    """Follow the schedule from `start_ns` (ns since 1970: second 0 of the load phase) to its end, or until `stop`.

    `max_waiting`: due and not yet confirmed; arrivals beyond it are skipped, the newest first. `keeps_order`: the
    history is told what fixes the order of each event, since nothing else keeps it.
    """
    due_s, total = events.schedule.due_s, len(events)
    waiting: list[Envelope] = []
    begin = 0
    give_up_ns = start_ns + round(((due_s[-1] if total else 0.0) + PATIENCE_S) * 1e9)

    def intended_ns(first: int, last: int) -> list[int]:
        return [start_ns + round(at_s * 1e9) for at_s in due_s[first:last]]

    while not stop.is_set() and (begin < total or waiting):
        now_ns = history.now_ns()
        if now_ns > give_up_ns:
            break
        due = bisect_right(due_s, (now_ns - start_ns) / 1e9, begin)
        end = min(due, begin + max(0, max_waiting - len(waiting)))
        if end > begin:
            fresh = events.make(begin, end, datetime.fromtimestamp(now_ns / 1e9, UTC))
            order = (list(map(_KEY, fresh)), list(map(_SEQUENCE, fresh))) if keeps_order else (None, None)
            history.requested(list(map(_ID, fresh)), intended_ns(begin, end), *order)
            waiting += fresh
        if due > end:
            history.skipped(intended_ns(end, due))
        begin = due
        if waiting:
            batch = waiting[:batch_messages]
            again = send(batch)
            waiting[: len(batch)] = again
            if len(again) == len(batch):
                stop.wait(PAUSE_S)
        if not waiting and begin < total:
            next_ns = max(now_ns + round(TICK_S * 1e9), start_ns + round(due_s[begin] * 1e9))
            stop.wait(max(0.0, (next_ns - history.now_ns()) / 1e9))


def publishing(publisher: Publisher, probe: Probe, timeout_s: float) -> Send:
    """Straight to the broker. What ended unknown is sent again, before anything later: as the relay does."""

    def send(batch: Sequence[Envelope]) -> Sequence[Envelope]:
        ids = list(map(_ID, batch))
        probe.reach(Step.ATTEMPTED, ids)
        outcomes = publisher.publish(batch, timeout_s)
        probe.reach(Step.CONFIRMED, ids, outcomes=list(map(itemgetter(0), outcomes)))
        if outcomes.count(CONFIRMED) == len(outcomes):
            return ()
        return [envelope for envelope, outcome in zip(batch, outcomes, strict=True) if outcome.status is Status.UNKNOWN]

    return send


def writing(engine: Engine, sink: EventSink, history: History) -> Send:
    """Into the outbox, one transaction a batch. One without an answer is not sent again: the ledger tells of it."""

    def send(batch: Sequence[Envelope]) -> Sequence[Envelope]:
        ids = list(map(_ID, batch))
        try:
            with engine.begin() as connection:
                sink.write(connection, batch)
        except Exception as error:
            if not is_transient(error):
                raise
            history.answered(ids, ["unknown"] * len(ids))
        else:
            sink.after_commit(batch)
            history.answered(ids, ["acknowledged"] * len(ids))
        return ()

    return send


def receive(
    subscriber: Subscriber,
    group: str,
    probe: Probe,
    stop: Stop,
    batch_messages: int,
    on_malformed: Callable[[Delivery], None],
) -> None:
    """Write down what was delivered, then ack it; nothing else. Until `stop`."""
    while not stop.is_set():
        deliveries = subscriber.receive(batch_messages, 0.5)
        if not deliveries:
            continue
        ids = [delivery.envelope.id for delivery in deliveries if delivery.envelope is not None]
        probe.reach(Step.DELIVERED, ids, group=group)
        if len(ids) < len(deliveries):
            for delivery in deliveries:
                if delivery.envelope is None:
                    on_malformed(delivery)
        subscriber.ack(deliveries)
        probe.reach(Step.ACKED, ids, group=group)
