"""A member of a group reading the store: lanes it owns, retries in place, dead letters.

What was handed over and not acked comes again, in order, whenever the lane's epoch changes: another owner, a lost
connection, a replay. Tokens carry the epoch, so a settlement that comes too late is passed over.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from brokers.memory.store import Member, Place, Reading, Record, Store
from core.messaging.outcomes import Outcome, refused, unknown
from core.messaging.ports import Delivery, Failure
from core.messaging.topology import DEAD_LETTER_SUFFIX, Topology


class Token(NamedTuple):
    place: Place
    epoch: int
    offset: int


@dataclass
class Waiting:
    """The messages of one key behind a failed one, that one first."""

    due_at: float
    offsets: deque[int]


class MemorySubscriber:
    def __init__(self, store: Store, topology: Topology, group: str, prefetch_messages: int) -> None:
        self._store = store
        self._topology = topology
        self._takes = subscription(topology, group)
        self._prefetch = prefetch_messages
        self._member = Member(group, (topology.prefix + topic for topic in topology.topics_of(group)))
        self._joined = False
        self._closed = False
        self._lanes: dict[Place, _Lane] = {}
        self._turn = 0

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        deadline = monotonic() + timeout_s
        with self._store.changed:
            self._join()
            while not self._closed:
                self._follow_assignment()
                batch = self._take(max_messages)
                now = monotonic()
                if batch or now >= deadline:
                    return batch
                dues = (waiting.due_at for lane in self._lanes.values() for waiting in lane.waiting.values())
                # A key that is due and yet was not taken waits for room, not for the clock.
                self._store.changed.wait(min((deadline, *(due_at for due_at in dues if due_at > now))) - now)
            return []

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._store.changed:
            for delivery in deliveries:
                if (lane := self._lane_holding(delivery)) is not None:
                    offset = _token(delivery).offset
                    lane.in_hand.pop(offset, None)
                    lane.attempts.pop(offset, None)
                    self._store.settle(self._member.group, lane.place, offset)
            self._store.changed.notify_all()

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        with self._store.changed:
            if (lane := self._lane_holding(failed)) is None:
                return
            offsets = [_token(d).offset for d in (failed, *held) if self._lane_holding(d) is lane]
            for offset in offsets:
                del lane.in_hand[offset]
            lane.attempts[offsets[0]] = lane.attempts.get(offsets[0], 0) + 1
            behind = lane.waiting.get(failed.key)
            lane.waiting[failed.key] = Waiting(
                monotonic() + after_s, deque([*offsets, *(behind.offsets if behind else ())])
            )
            self._store.changed.notify_all()

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        store = self._store
        with store.changed:
            if (lane := self._lane_holding(delivery)) is None:
                return unknown("not sent: the delivery's lane was lost, it comes again")
            if delivery.topic.endswith(DEAD_LETTER_SUFFIX):
                return refused(f"{delivery.topic} has no dead letters of its own")
            record = store.log(lane.place)[_token(delivery).offset]._replace(
                stored_at=store.now(),
                failure=failure,
                failed_group=self._member.group,
                origin_topic=delivery.topic,
            )
            store.changed.wait_for(lambda: self._closed or not store.is_away, timeout_s)
            if self._closed or store.faults.delay_s > timeout_s:
                return unknown(f"no answer within {timeout_s:g} s")
            outcome = store.offer(self._topology.prefix + delivery.topic + DEAD_LETTER_SUFFIX, record)
            if outcome.is_confirmed:
                self.ack([delivery])
            return outcome

    def close(self) -> None:
        with self._store.changed:
            if not self._closed and self._joined:
                self._store.leave(self._member)
            self._closed = True
            self._store.changed.notify_all()

    def _join(self) -> None:
        if not self._joined and not self._closed:
            self._joined = True
            self._store.join(self._member)

    def _follow_assignment(self) -> None:
        """Forget lanes that were lost or that began a new epoch; start the new ones from their position."""
        owned = {} if self._store.is_away else self._store.owned(self._member)
        for place in [p for p, lane in self._lanes.items() if p not in owned or owned[p].epoch != lane.epoch]:
            del self._lanes[place]
        for place, reading in owned.items():
            if place not in self._lanes:
                self._lanes[place] = _Lane(place, reading)

    def _lane_holding(self, delivery: Delivery) -> "_Lane | None":
        """None when the delivery is no longer this member's to settle: its lane moved on, or it was settled."""
        token = _token(delivery)
        lane = self._lanes.get(token.place)
        if self._closed or self._store.is_away or lane is None or token.offset not in lane.in_hand:
            return None
        current = lane.epoch == token.epoch == lane.reading.epoch and lane.reading.owner is self._member
        return lane if current else None

    def _take(self, max_messages: int) -> list[Delivery]:
        lanes = list(self._lanes.values())
        in_hand = sum(len(lane.in_hand) for lane in lanes)
        room = min(max_messages, max(self._prefetch, len(lanes)) - in_hand)
        batch: list[Delivery] = []
        self._turn += 1
        for number in range(len(lanes)):
            lane = lanes[(number + self._turn) % len(lanes)]
            offsets = lane.next_offsets(self._store, room - len(batch), self._takes, self._member.group)
            batch += [self._hand_over(lane, offset) for offset in offsets]
        return batch

    def _hand_over(self, lane: "_Lane", offset: int) -> Delivery:
        record = self._store.log(lane.place)[offset]
        redelivered = offset in lane.reading.handed
        lane.reading.handed.add(offset)
        lane.in_hand[offset] = None
        return delivery_of(
            record,
            topic=lane.place.topic.removeprefix(self._topology.prefix),
            lane=lane.place.lane,
            token=Token(lane.place, lane.epoch, offset),
            attempts=lane.attempts.get(offset, 0),
            redelivered=redelivered,
        )


class _Lane:
    """One owned lane in one epoch: how far it was read, what is in hand, which keys wait."""

    def __init__(self, place: Place, reading: Reading) -> None:
        self.place = place
        self.reading = reading
        self.epoch = reading.epoch
        self.cursor = reading.position
        self.in_hand: dict[int, None] = {}
        self.attempts: dict[int, int] = {}
        self.waiting: dict[str, Waiting] = {}

    def next_offsets(self, store: Store, count: int, takes: Callable[[Record], bool], group: str) -> list[int]:
        """At most `count` offsets to hand over: keys whose wait is over first, then what was not read yet."""
        chosen: list[int] = []
        now = monotonic()
        for key in [key for key, waiting in self.waiting.items() if waiting.due_at <= now]:
            offsets = self.waiting[key].offsets
            while offsets and len(chosen) < count:
                chosen.append(offsets.popleft())
            if not offsets:
                del self.waiting[key]
        log = store.log(self.place)
        while len(chosen) < count and self.cursor < len(log):
            offset, record = self.cursor, log[self.cursor]
            self.cursor += 1
            if offset in self.reading.acked:
                continue
            if group in record.refused_by or not takes(record):
                store.settle(group, self.place, offset)
            elif record.key in self.waiting:
                self.waiting[record.key].offsets.append(offset)
            else:
                chosen.append(offset)
        return chosen


def _token(delivery: Delivery) -> Token:
    assert isinstance(delivery.token, Token), "a delivery of another adapter"
    return delivery.token


def delivery_of(
    record: Record, *, topic: str, lane: int, token: Token, attempts: int = 0, redelivered: bool | None = None
) -> Delivery:
    return Delivery(
        envelope=record.envelope,
        topic=topic,
        lane=lane,
        token=token,
        attempts=attempts,
        redelivered=redelivered,
        error=record.error,
        body=record.body,
        wire_headers=record.wire_headers,
        key=record.key,
        failure=record.failure,
        failed_group=record.failed_group,
        origin_topic=record.origin_topic,
    )


def subscription(topology: Topology, group: str) -> Callable[[Record], bool]:
    """Whether a group takes a record: its types, every dead letter, what is malformed, a type that no route knows."""
    others = topology.left_to_others(group)
    return lambda record: record.envelope is None or record.type not in others
