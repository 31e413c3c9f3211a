"""Declare, look and replay on the memory twin."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from brokers.memory.store import Place, Record, Store
from brokers.memory.subscriber import Token, delivery_of, subscription
from core.messaging.errors import BrokerError, BrokerUnavailable
from core.messaging.ports import Delivery, Lag
from core.messaging.topology import DEAD_LETTER_SUFFIX, Topology

CHECK_TOPIC = "check-ready"


class MemoryAdmin:
    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._topology = topology

    def declare(self) -> None:
        with self._store.changed:
            self._require_reachable(0.0)
            for topic in self._names():
                self._store.make_topic(topic, self._topology.partitions)

    def check_ready(self, timeout_s: float) -> None:
        topic = self._topology.prefix + CHECK_TOPIC
        with self._store.changed:
            self._require_reachable(timeout_s)
            self._store.make_topic(topic, 1)
            outcome = self._store.offer(topic, Record("check", "", self._store.now(), None))
            if not outcome.is_confirmed:
                raise BrokerUnavailable("memory", "this process", timeout_s, outcome.reason)

    def lag(self, group: str) -> Mapping[str, Lag]:
        with self._store.changed:
            self._require_reachable(0.0)
            return {topic: self._lag(group, topic) for topic in self._topology.topics_of(group)}

    def read_all(self, topic: str, since: datetime | None = None) -> Iterator[Delivery]:
        """A copy of the logs as they are when the first delivery is asked for."""
        with self._store.changed:
            self._require_reachable(0.0)
            places = self._store.places(self._topology.prefix + topic)
            logs = [(place, list(self._store.log(place))) for place in places]
        for place, log in logs:
            for offset, record in enumerate(log):
                if since is None or record.stored_at >= since:
                    found = delivery_of(record, topic=topic, lane=place.lane, token=Token(place, -1, offset))
                    yield found._replace(position=offset)

    def replay(self, group: str, since: datetime | None = None) -> None:
        with self._store.changed:
            self._require_reachable(0.0)
            if members := self._store.members(group):
                raise BrokerError(f"group {group} has {members} members connected; close them before a replay")
            for topic in self._topology.topics_of(group):
                for place in self._store.places(self._topology.prefix + topic):
                    self._store.rewind(group, place, since)

    def delete(self) -> None:
        for topic in (*self._names(), self._topology.prefix + CHECK_TOPIC):
            self._store.drop_topic(topic)

    def close(self) -> None:
        """Holds nothing."""

    def _names(self) -> Iterator[str]:
        for topic in self._topology.topics:
            yield self._topology.prefix + topic
            yield self._topology.prefix + topic + DEAD_LETTER_SUFFIX

    def _require_reachable(self, timeout_s: float) -> None:
        if not self._store.changed.wait_for(lambda: not self._store.is_away, timeout_s):
            raise BrokerUnavailable("memory", "this process", timeout_s, "it was stopped")

    def _lag(self, group: str, topic: str) -> Lag:
        owed = [r for place in self._store.places(self._topology.prefix + topic) for r in self._owed(group, place)]
        oldest = min((record.stored_at for record in owed), default=None)
        delay_s = 0.0 if oldest is None else (self._store.now() - oldest).total_seconds()
        return Lag(len(owed), delay_s)

    def _owed(self, group: str, place: Place) -> Iterator[Record]:
        takes = subscription(self._topology, group)
        reading = self._store.reading(group, place)
        log = self._store.log(place)
        for offset in range(reading.position, len(log)):
            record = log[offset]
            if offset not in reading.acked and group not in record.refused_by and takes(record):
                yield record
