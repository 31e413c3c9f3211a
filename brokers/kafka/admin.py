"""Declare, inspect, re-read and remove what the topology needs on Kafka."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from brokers.kafka.config import KafkaConfig
from brokers.kafka.errors import SILENCE, GroupBusy, error_of, quiet_logger, translated
from brokers.kafka.reading import read_record
from brokers.kafka.topology import READY_TOPIC, broker_topic, declared_topics, group_id, groups
from core.messaging.errors import BrokerError, BrokerUnavailable, TopologyMismatch
from core.messaging.ports import Delivery, Lag
from core.messaging.topology import Topology

T = TypeVar("T")
Place = tuple[str, int]
REQUEST_S = 15.0
"""How long one question to the broker may take."""
_MISMATCH_MATTERS = ("max.message.bytes", "cleanup.policy")
_LEAVING_S = 20.0
"""How long members that just closed may still count as members."""


class KafkaAdmin:
    def __init__(self, config: KafkaConfig, topology: Topology) -> None:
        self._config = config
        self._topology = topology
        self._opened: AdminClient | None = None
        self._peeking: Consumer | None = None
        self._watchers: dict[str, Consumer] = {}

    def declare(self) -> None:
        names = declared_topics(self._topology)
        settings = self._config.topic_settings()
        new = [
            # -1: the broker's own default, which a cluster sets to what it can keep.
            NewTopic(name, num_partitions=self._topology.partitions, replication_factor=-1, config=settings)
            for name in names
        ]
        existing = []
        for name, future in self._client.create_topics(new, request_timeout=REQUEST_S).items():
            if self._done(future, unless=KafkaError.TOPIC_ALREADY_EXISTS) is not None:
                existing.append(name)
        if existing:
            self._check(existing, settings)
        self._await_lanes(names)
        self._alter_groups(AlterConfigOpType.SET)

    def check_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        name = broker_topic(self._topology, READY_TOPIC)
        reports: list[KafkaError | None] = []
        producer = Producer(
            {**self._config.publisher_settings(), "delivery.report.only.error": False}, logger=quiet_logger()
        )
        client = self._client
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                new = NewTopic(name, num_partitions=1, replication_factor=-1, config={"retention.ms": "60000"})
                for future in client.create_topics([new], request_timeout=left_s).values():
                    self._done(future, unless=KafkaError.TOPIC_ALREADY_EXISTS)
                break
            except BrokerUnavailable:
                continue
        producer.produce(name, b"ready?", partition=0, on_delivery=lambda error, _: reports.append(error))
        producer.flush(max(deadline - time.monotonic(), 0))
        if reports != [None]:
            said = self._config.without_secrets(str(reports[0])) if reports else "a publish was not confirmed"
            producer.purge()
            producer.flush(1.0)
            raise BrokerUnavailable("Kafka", self._config.bootstrap_servers, timeout_s, said)

    def lag(self, group: str) -> Mapping[str, Lag]:
        try:
            return self._lag(group)
        except BrokerError:
            # Seen once after the broker had stood still for 8 s: for 80 s the same clients answered each question with
            # an error at once, while everyone else worked. Fresh ones ask next time.
            self.close()
            raise

    def _lag(self, group: str) -> Mapping[str, Lag]:
        topics = {broker_topic(self._topology, topic): topic for topic in self._topology.topics_of(group)}
        places = self._places(topics)
        watermarks = self._watermarks(places)
        starts = {place: low for place, (low, _) in watermarks.items()}
        ends = {place: high for place, (_, high) in watermarks.items()}
        acked = self._positions(group, places)
        # What retention removed is not owed any more.
        next_ = {place: max(acked.get(place, starts[place]), starts[place]) for place in places}
        behind = {place: ends[place] - next_[place] for place in places if ends[place] > next_[place]}
        oldest_s = self._written_at({place: next_[place] for place in behind})
        now = time.time()
        return {
            topic: Lag(
                sum(count for place, count in behind.items() if place[0] == name),
                max((max(now - at, 0.0) for place, at in oldest_s.items() if place[0] == name), default=0.0),
            )
            for name, topic in topics.items()
        }

    def read_all(self, topic: str, since: datetime | None = None) -> Iterator[Delivery]:
        places = self._places([broker_topic(self._topology, topic)])
        ends = {place: high for place, (_, high) in self._watermarks(places).items()}
        starts = self._starts(places, since)
        return self._read(topic, {place: (starts[place], ends[place]) for place in places})

    def replay(self, group: str, since: datetime | None = None) -> None:
        places = self._places([broker_topic(self._topology, topic) for topic in self._topology.topics_of(group)])
        starts = self._starts(places, since)
        wanted = ConsumerGroupTopicPartitions(
            group_id(self._topology, group),
            [TopicPartition(topic, partition, starts[topic, partition]) for topic, partition in places],
        )
        deadline = time.monotonic() + _LEAVING_S
        while True:
            try:
                for future in self._client.alter_consumer_group_offsets([wanted], request_timeout=REQUEST_S).values():
                    for answered in self._result(future).topic_partitions:
                        if answered.error is not None:
                            raise KafkaException(answered.error)
                return
            except KafkaException as caught:
                if error_of(caught).code() not in _GROUP_HAS_MEMBERS:
                    raise self._translated(caught) from caught
                if time.monotonic() >= deadline:
                    raise GroupBusy(group) from caught
                time.sleep(0.2)

    def delete(self) -> None:
        names = [*declared_topics(self._topology), broker_topic(self._topology, READY_TOPIC)]
        for future in self._client.delete_topics(
            names, request_timeout=REQUEST_S, operation_timeout=REQUEST_S
        ).values():
            self._done(future, unless=KafkaError.UNKNOWN_TOPIC_OR_PART)
        self._await_gone(names)
        self._alter_groups(AlterConfigOpType.DELETE)
        ids = [group_id(self._topology, group) for group in groups(self._topology)]
        deadline = time.monotonic() + _LEAVING_S
        while ids:
            futures = self._client.delete_consumer_groups(ids, request_timeout=REQUEST_S)
            ids = [name for name, future in futures.items() if self._is_still_there(future)]
            if ids and time.monotonic() >= deadline:
                raise GroupBusy(", ".join(ids))
            if ids:
                time.sleep(0.2)

    def close(self) -> None:
        peeking, self._peeking, self._opened = self._peeking, None, None
        for reader in [*self._watchers.values(), *([peeking] if peeking is not None else [])]:
            reader.close()
        self._watchers.clear()

    @property
    def _client(self) -> AdminClient:
        if self._opened is None:
            self._opened = AdminClient(dict(self._config.client_settings()), logger=quiet_logger())
        return self._opened

    def _check(self, names: Sequence[str], settings: Mapping[str, str]) -> None:
        """Compare topics that were there already with what is declared."""
        for name in names:
            found = len(self._metadata(name).partitions)
            if found != self._topology.partitions:
                raise TopologyMismatch(f"topic {name}", "partitions", self._topology.partitions, found)
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        # A tier without fsync may use a topic that has it, not the other way round.
        matter = (*_MISMATCH_MATTERS, *(("flush.messages",) if "flush.messages" in settings else ()))
        for resource, future in self._client.describe_configs(resources, request_timeout=REQUEST_S).items():
            described = self._result_translated(future)
            for argument in matter:
                if described[argument].value != settings[argument]:
                    raise TopologyMismatch(
                        f"topic {resource.name}", argument, settings[argument], described[argument].value
                    )

    def _alter_groups(self, operation: AlterConfigOpType) -> None:
        """Give every group its settings, or take them away; the broker refuses one beyond its own bounds."""
        settings = self._config.group_settings()
        if not settings:
            return
        resources = [
            ConfigResource(
                ResourceType.GROUP,
                group_id(self._topology, group),
                incremental_configs=[
                    ConfigEntry(
                        name, value if operation is AlterConfigOpType.SET else None, incremental_operation=operation
                    )
                    for name, value in settings.items()
                ],
            )
            for group in groups(self._topology)
        ]
        for future in self._client.incremental_alter_configs(resources, request_timeout=REQUEST_S).values():
            self._result_translated(future)

    def _metadata(self, name: str):  # type: ignore[no-untyped-def]  # the client's own type
        try:
            return self._client.list_topics(name, timeout=REQUEST_S).topics[name]
        except KafkaException as caught:
            raise self._translated(caught) from caught

    def _await_lanes(self, names: Sequence[str]) -> None:
        """A topic just made has no leader for some milliseconds, and brokers tell of a leader a moment before it takes
        its lanes up. Whoever publishes then is refused; who waits for no answer never hears of it."""
        deadline = time.monotonic() + REQUEST_S
        for name in names:
            while not self._has_leaders(name):
                self._wait_for_lanes(deadline, f"topic {name} has no leader")
        lanes = [TopicPartition(name, lane, 0) for name in names for lane in range(self._topology.partitions)]
        while (refused := self._refused(lanes)) is not None:
            self._wait_for_lanes(deadline, f"a lane is not taken up: {self._config.without_secrets(refused.str())}")

    def _has_leaders(self, name: str) -> bool:
        found = self._metadata(name)
        return (
            found.error is None
            and len(found.partitions) == self._topology.partitions
            and all(lane.leader >= 0 for lane in found.partitions.values())
        )

    def _refused(self, lanes: Sequence[TopicPartition]) -> KafkaError | None:
        """Why a lane's leader would not tell its offsets; None if every one did."""
        try:
            found = self._reader_kept().offsets_for_times(list(lanes), timeout=REQUEST_S)
        except KafkaException as caught:
            return error_of(caught)
        return next((lane.error for lane in found if lane.error is not None), None)

    def _wait_for_lanes(self, deadline: float, said: str) -> None:
        if time.monotonic() >= deadline:
            raise BrokerUnavailable("Kafka", self._config.bootstrap_servers, REQUEST_S, said)
        time.sleep(0.02)

    def _await_gone(self, names: Iterable[str]) -> None:
        deadline = time.monotonic() + REQUEST_S
        left = set(names)
        while left and time.monotonic() < deadline:
            left &= self._client.list_topics(timeout=REQUEST_S).topics.keys()
            if left:
                time.sleep(0.05)

    def _places(self, names: Iterable[str]) -> list[Place]:
        return [(name, partition) for name in names for partition in sorted(self._metadata(name).partitions)]

    def _watermarks(self, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        """The oldest kept and the next to be written.

        Asked through a reader: the admin client's list_offsets crashed the process (segmentation fault in librdkafka
        2.16) when the broker had been killed and started again since its last call.
        """
        reader = self._reader_kept()
        return {place: self._asked(reader.get_watermark_offsets, TopicPartition(*place)) for place in places}

    def _starts(self, places: Sequence[Place], since: datetime | None) -> dict[Place, int]:
        """Where reading begins: the oldest kept, or the first written at or after `since` (the end if none)."""
        watermarks = self._watermarks(places)
        if since is None:
            return {place: low for place, (low, _) in watermarks.items()}
        asked = [TopicPartition(*place, int(since.timestamp() * 1_000)) for place in places]
        found = self._asked(self._reader_kept().offsets_for_times, asked)
        return {
            (at.topic, at.partition): at.offset if at.offset >= 0 else watermarks[at.topic, at.partition][1]
            for at in found
        }

    def _asked(self, ask: "Callable[..., T]", what: object) -> "T":
        """The answer to `ask(what)`; asked again for a while where the broker says that it is not the one to ask: it
        has just been started, or the topic just made."""
        deadline = time.monotonic() + REQUEST_S
        while True:
            try:
                return ask(what, timeout=REQUEST_S)
            except KafkaException as caught:
                if error_of(caught).code() not in SILENCE or time.monotonic() >= deadline:
                    raise self._translated(caught) from caught
                time.sleep(0.1)

    def _reader_kept(self) -> Consumer:
        if self._peeking is None:
            self._peeking = self._reader({"queued.min.messages": 1, "fetch.message.max.bytes": 16_384})
        return self._peeking

    def _positions(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        """What the group has acked, asked by a reader of its name that never joins it.

        The admin client's own request waits for its whole time-out, again and again, once the broker was restarted.
        """
        reader = self._watchers.get(group)
        if reader is None:
            settings = {**self._config.fetch_settings(), "group.id": group_id(self._topology, group)}
            reader = self._watchers[group] = Consumer(settings, logger=quiet_logger())
        found = self._asked(reader.committed, [TopicPartition(*place) for place in places])
        return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}

    def _written_at(self, offsets: Mapping[Place, int]) -> dict[Place, float]:
        """Seconds since 1970 at which the record at each place was written; a place that is silent is left out."""
        if not offsets:
            return {}
        reader = self._reader_kept()
        reader.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        found: dict[Place, float] = {}
        deadline = time.monotonic() + REQUEST_S
        while len(found) < len(offsets) and time.monotonic() < deadline:
            message = reader.poll(0.2)
            if message is not None and message.error() is None:
                place = (message.topic(), message.partition())
                if place not in found:
                    found[place] = message.timestamp()[1] / 1_000
                    # Else a lane that is being written fast is read for seconds before another one's first record.
                    reader.incremental_unassign([TopicPartition(*place)])
        reader.unassign()
        return found

    def _read(self, topic: str, ranges: Mapping[Place, tuple[int, int]]) -> Iterator[Delivery]:
        left = {place: end for place, (start, end) in ranges.items() if start < end}
        if not left:
            return
        reader = self._reader({})
        try:
            reader.assign([TopicPartition(*place, ranges[place][0]) for place in left])
            heard_s = time.monotonic()
            while left:
                messages = reader.consume(1_000, 0.1)
                for message in messages:
                    if message.error() is not None:
                        continue
                    place = (message.topic(), message.partition())
                    if message.offset() < left.get(place, 0):
                        heard_s = time.monotonic()
                        yield read_record(message, self._topology)._replace(position=message.offset())
                # Positions and not the last offset seen: the end of a lane may hold no record (a compacted one).
                for position in reader.position([TopicPartition(*place) for place in left]):
                    if position.offset >= left[position.topic, position.partition]:
                        del left[position.topic, position.partition]
                if time.monotonic() - heard_s > 2 * REQUEST_S:
                    raise BrokerUnavailable(
                        "Kafka",
                        self._config.bootstrap_servers,
                        2 * REQUEST_S,
                        f"reading {topic} stopped before its end",
                    )
        finally:
            reader.close()

    def _reader(self, more: Mapping[str, int]) -> Consumer:
        # librdkafka wants a name of a group even of a reader that joins none.
        settings = {**self._config.fetch_settings(), **more, "group.id": f"{self._topology.prefix}audit-{uuid4()}"}
        return Consumer(settings, logger=quiet_logger())

    def _is_still_there(self, future: "Future[None]") -> bool:
        """Its members have not left yet, or its coordinator is not back yet."""
        try:
            self._result(future)
        except KafkaException as caught:
            code = error_of(caught).code()
            if code in _GROUP_HAS_MEMBERS or code in SILENCE:
                return True
            if code != KafkaError.GROUP_ID_NOT_FOUND:
                raise self._translated(caught) from caught
        return False

    def _done(self, future: "Future[None]", unless: int) -> KafkaError | None:
        """Await it; the error if it is the one that was expected, None if there was none."""
        try:
            self._result(future)
        except KafkaException as caught:
            error = error_of(caught)
            if error.code() == unless:
                return error
            raise self._translated(caught) from caught
        return None

    def _result_translated(self, future: "Future[T]") -> T:
        try:
            return self._result(future)
        except KafkaException as caught:
            raise self._translated(caught) from caught

    def _result(self, future: "Future[T]") -> T:
        return future.result(timeout=REQUEST_S + 5.0)

    def _translated(self, caught: KafkaException) -> Exception:
        return translated(caught, self._config.bootstrap_servers, REQUEST_S, self._config.without_secrets)


_GROUP_HAS_MEMBERS = frozenset(
    {
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
