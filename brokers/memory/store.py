"""The server of the memory twin: logs of records in lanes, how far each group has acked, and what goes wrong on demand.

Everything happens under one condition, `changed`; who waits for a message, a lane or the broker's return waits on it.
Nothing is encoded and nothing is ever dropped: the logs grow until `drop_topic`. Not here: what a publisher or a
subscriber owes its caller (`publisher`, `subscriber`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from threading import Condition, RLock
from typing import NamedTuple

from core.messaging.envelope import Envelope
from core.messaging.errors import TopologyMismatch
from core.messaging.lanes import lane_of
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.messaging.ports import Failure


class Place(NamedTuple):
    """One lane of one topic; the topic by its name in the store, prefix included."""

    topic: str
    lane: int


class Record(NamedTuple):
    """A message as the store holds it; `envelope` is None for malformed bytes, which stand in `body`."""

    key: str
    type: str
    stored_at: datetime
    envelope: Envelope | None
    error: str = ""
    body: bytes = b""
    wire_headers: tuple[tuple[str, bytes], ...] = ()
    failure: Failure | None = None
    failed_group: str | None = None
    origin_topic: str | None = None
    refused_by: frozenset[str] = frozenset()
    """Groups whose queue did not take it."""


@dataclass
class Faults:
    """What the store does wrong while these are set. Ratios, 0 to 1, are drawn a message from the store's seed."""

    lost_confirm_ratio: float = 0.0
    """Stored, but the answer is lost: UNKNOWN."""
    lost_request_ratio: float = 0.0
    """Never arrived: UNKNOWN."""
    refuse: Callable[[Record], str] | None = None
    """Returns why the record is refused, or an empty text."""
    refusing_groups: frozenset[str] = frozenset()
    """Their queues take nothing while others do: UNKNOWN, as a nack is."""
    delay_s: float = 0.0
    """How long a publish waits for its answer. Past its time-out a prefix of random length was stored: UNKNOWN."""


class Member:
    """A subscriber as the store knows it: compared by identity."""

    def __init__(self, group: str, topics: Iterable[str]) -> None:
        self.group = group
        self.topics = frozenset(topics)


@dataclass
class Reading:
    """How far one group is in one lane."""

    position: int = 0
    """Every offset below is acked or not for this group."""
    acked: set[int] = field(default_factory=set)
    """Acked offsets from `position` on."""
    handed: set[int] = field(default_factory=set)
    """Offsets handed to some member before: a further delivery of them is a redelivery."""
    owner: Member | None = None
    epoch: int = 0
    """Grows whenever what was handed over is void: another owner, a lost connection, a replay."""


class Store:
    def __init__(self, seed: int = 0, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.changed = Condition(RLock())
        self.faults = Faults()
        self.random = Random(seed)
        self.now = now
        self.is_away = False
        self.connection = 0
        """Grows with every lost connection: an answer that was awaited across one is UNKNOWN."""
        self._lanes: dict[str, list[list[Record]]] = {}
        self._readings: dict[tuple[str, Place], Reading] = {}
        self._members: dict[str, list[Member]] = {}

    # What goes wrong on demand

    def disconnect(self) -> None:
        """Every connection is lost and made again: answers in flight are UNKNOWN, what was not acked comes again."""
        with self.changed:
            self.connection += 1
            for reading in self._readings.values():
                reading.epoch += 1
            self.changed.notify_all()

    def stop(self) -> None:
        """Go away, with all connections. The logs stay: this is a restart, not a SIGKILL."""
        with self.changed:
            self.is_away = True
            self.disconnect()

    def start(self) -> None:
        with self.changed:
            self.is_away = False
            self.changed.notify_all()

    # Topics

    def make_topic(self, topic: str, lanes: int) -> None:
        with self.changed:
            found = self._lanes.setdefault(topic, [[] for _ in range(lanes)])
            if len(found) != lanes:
                raise TopologyMismatch(f"topic {topic}", "partitions", lanes, len(found))
            for group in self._members:
                self._share_lanes(group)

    def drop_topic(self, topic: str) -> None:
        with self.changed:
            self._lanes.pop(topic, None)
            for group, place in [name for name in self._readings if name[1].topic == topic]:
                del self._readings[group, place]
            self.changed.notify_all()

    def has_topic(self, topic: str) -> bool:
        return topic in self._lanes

    def places(self, topic: str) -> list[Place]:
        return [Place(topic, lane) for lane in range(len(self._lanes.get(topic, ())))]

    def log(self, place: Place) -> list[Record]:
        lanes = self._lanes.get(place.topic)
        return lanes[place.lane] if lanes else []

    # Messages in

    def append(self, topic: str, record: Record) -> Place:
        """Store it without a question asked: the lane of its key."""
        with self.changed:
            lanes = self._lanes[topic]
            place = Place(topic, lane_of(record.key, len(lanes)))
            lanes[place.lane].append(record)
            self.changed.notify_all()
            return place

    def offer(self, topic: str, record: Record) -> Outcome:
        """Store it if no fault of ours forbids it, and answer."""
        faults = self.faults
        if not self.has_topic(topic):
            return refused(f"topic {topic} does not exist")
        if faults.refuse is not None and (reason := faults.refuse(record)):
            return refused(reason)
        if self.is_away or self._drawn(faults.lost_request_ratio):
            return unknown("the connection was lost")
        self.append(topic, record._replace(refused_by=faults.refusing_groups))
        if faults.refusing_groups:
            return unknown(f"nacked: {', '.join(sorted(faults.refusing_groups))} did not take it")
        if self._drawn(faults.lost_confirm_ratio):
            return unknown("no answer came")
        return CONFIRMED

    def _drawn(self, ratio: float) -> bool:
        return ratio > 0 and self.random.random() < ratio

    # Groups

    def join(self, member: Member) -> None:
        with self.changed:
            self._members.setdefault(member.group, []).append(member)
            self._share_lanes(member.group)

    def leave(self, member: Member) -> None:
        with self.changed:
            self._members[member.group].remove(member)
            self._share_lanes(member.group)

    def members(self, group: str) -> int:
        return len(self._members.get(group, ()))

    def _share_lanes(self, group: str) -> None:
        members = self._members[group]
        places = [place for topic in sorted({t for m in members for t in m.topics}) for place in self.places(topic)]
        for number, place in enumerate(places):
            able = [member for member in members if place.topic in member.topics]
            reading = self.reading(group, place)
            owner = able[number % len(able)]
            if reading.owner is not owner:
                reading.owner = owner
                reading.epoch += 1
        self.changed.notify_all()

    def reading(self, group: str, place: Place) -> Reading:
        return self._readings.setdefault((group, place), Reading())

    def owned(self, member: Member) -> dict[Place, Reading]:
        places = (place for topic in sorted(member.topics) for place in self.places(topic))
        readings = {place: self.reading(member.group, place) for place in places}
        return {place: reading for place, reading in readings.items() if reading.owner is member}

    def settle(self, group: str, place: Place, offset: int) -> None:
        """`offset` is acked, or not for this group: `group` never sees it again unless it replays."""
        reading = self.reading(group, place)
        if offset < reading.position:
            return
        reading.acked.add(offset)
        while reading.position in reading.acked:
            reading.acked.discard(reading.position)
            reading.handed.discard(reading.position)
            reading.position += 1

    def rewind(self, group: str, place: Place, since: datetime | None) -> None:
        """Back to the beginning, or to the first record stored at or after `since`."""
        log = self.log(place)
        reading = self.reading(group, place)
        start = 0 if since is None else next((n for n, r in enumerate(log) if r.stored_at >= since), len(log))
        reading.handed |= set(range(start, reading.position))
        reading.acked.clear()
        reading.position = start
        reading.epoch += 1
        self.changed.notify_all()
