"""Publish a batch and know of each message what became of it, without ever leaving a gap in a lane.

Every message of a batch is handed to one librdkafka producer (idempotent, acks=all), then the queue is flushed. A
message that failed or was not answered in time ends that producer: queue and flight are purged, what was not confirmed
is UNKNOWN, and the next batch gets a new producer. REFUSED comes only from checks made before a message is handed over.
A producer's first message in a lane is confirmed before its next one there is handed over: till then the broker knows
no sequence of it, would take a later message before it, and the client would then call the first one confirmed too.
Why this neither loses nor reorders: docs/decisions, `kafka-one-producer-until-it-fails`, `kafka-first-message-alone`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Event, Lock
from time import monotonic

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from brokers.kafka.codec import Headers, encode_all
from brokers.kafka.config import KafkaConfig
from brokers.kafka.errors import Connection, error_of, quiet_logger
from brokers.kafka.topology import broker_topic
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.messaging.topology import Topology

log = logging.getLogger(__name__)

SLICE_S = 0.1
"""How soon a flush notices a failure or `close`."""
PURGE_S = 5.0
"""What a purge may take: it is local, milliseconds; the port's time-out has passed by then."""
FORGOTTEN_S = 12 * 3600.0
"""After which a producer is replaced: half of the broker's producer.id.expiration.ms, when it forgets the sequences."""
Record = tuple[str, bytes | None, str, Headers]
"""Topic as the broker calls it, value, key, headers."""
Report = Callable[[KafkaError | None, Message], None]


class KafkaPublisher:
    def __init__(self, config: KafkaConfig, topology: Topology) -> None:
        self._config = config
        self._topology = topology
        self._connection = Connection("publisher", config.bootstrap_servers, config.without_secrets)
        self._generation: _Generation | None = None
        self._publishing = Lock()
        self._closed = Event()

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        topics = {topic: broker_topic(self._topology, topic) for topic in {envelope.topic for envelope in batch}}
        records = zip(
            (topics[envelope.topic] for envelope in batch),
            (envelope.data for envelope in batch),
            (envelope.key for envelope in batch),
            encode_all(batch),
            strict=True,
        )
        return self.publish_records(records, len(batch), timeout_s)

    def publish_records(self, records: Iterable[Record], count: int, timeout_s: float) -> Sequence[Outcome]:
        """As `publish`, for records that are encoded already."""
        deadline = monotonic() + timeout_s
        with self._publishing:
            if self._closed.is_set():
                return [unknown("not sent: the publisher is closed")] * count
            if self._generation is not None and self._generation.began_s + FORGOTTEN_S < monotonic():
                self._end_generation()
            if self._generation is None:
                self._generation = _Generation(self._config, self._topology.partitions, self._connection)
            outcomes = self._generation.send(records, count, deadline, self._closed)
            if self._generation.is_spent or self._closed.is_set():
                self._end_generation()
            return outcomes

    def close(self) -> None:
        self._closed.set()
        # A publish that is under way sees `_closed` within a slice and gives its messages up itself, in order.
        with self._publishing:
            self._end_generation()

    def _end_generation(self) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.end()


class _Generation:
    """One librdkafka producer and what it was handed; spent after the first failure."""

    def __init__(self, config: KafkaConfig, partitions: int, connection: Connection) -> None:
        self._partitions = partitions
        self._connection = connection
        self._producer = Producer(
            {**config.publisher_settings(), "error_cb": connection.on_error}, logger=quiet_logger()
        )
        self._without_secrets = config.without_secrets
        self._numbers_messages = config.durability != "fire-and-forget"
        self._begun: dict[str, set[int]] = {}
        """Topic -> its lanes in which the broker has a message of this producer."""
        self._reports: list[Report] = []
        self._failures: dict[int, Outcome] = {}
        self._lost_reports = False
        self.is_spent = False
        self.began_s = monotonic()

    def send(self, records: Iterable[Record], count: int, deadline: float, closed: Event) -> list[Outcome]:
        self._failures = {}
        while len(self._reports) < count:
            self._reports.append(partial(self._failed, len(self._reports)))
        beginning, behind = self._hand_over(zip(records, self._reports, strict=False), deadline, closed)
        unanswered = self._await_answers(deadline, closed)
        if not self.is_spent:
            for topic, lane in beginning:
                self._begun[topic].add(lane)
            if behind:
                self._hand_over(behind, deadline, closed)
                unanswered = self._await_answers(deadline, closed)
        else:
            for _, report in behind:
                self._failed_locally(report, unknown("not sent: the first message of its lane was not confirmed"))
        outcomes = [unknown("the client did not tell what became of it") if unanswered else CONFIRMED] * count
        for index, outcome in self._failures.items():
            outcomes[index] = outcome
        return outcomes

    def end(self) -> None:
        """Destroy the client here and now: what a purge could not take out of it is never sent afterwards.

        The reports refer to us and we to the client, so it would else live on until a garbage collection, in whatever
        thread that happens to run.
        """
        self._reports.clear()
        del self._producer

    def _hand_over(
        self, records: Iterable[tuple[Record, Report]], deadline: float, closed: Event
    ) -> tuple[set[tuple[str, int]], list[tuple[Record, Report]]]:
        """Give each record to the client; the ones that it did not take get their outcome here.

        Returns the lanes that begin with one of these, and what has to wait until that one is confirmed.
        """
        produce, begun, partitions = self._producer.produce, self._begun, self._partitions
        stopped: dict[tuple[str, str], Outcome] = {}
        beginning: set[tuple[str, int]] = set()
        behind: list[tuple[Record, Report]] = []
        for record, report in records:
            topic, value, key, headers = record
            if stopped and (held := stopped.get((topic, key))):
                # An earlier message of this key was not handed over: this one may not enter before it.
                self._failed_locally(report, held)
                continue
            if topic not in begun and (outcome := self._look_up(topic, deadline, closed)) is not None:
                self._failed_locally(report, outcome)
                stopped[(topic, key)] = _behind(outcome)
                continue
            lane = lane_of(key, partitions)
            is_first = lane not in begun[topic]
            if is_first and (topic, lane) in beginning:
                behind.append((record, report))
                continue
            try:
                produce(topic, value, key, lane, report, headers=headers)
                outcome = None
            except BufferError:
                outcome = self._hand_over_slowly(record, lane, report, deadline, closed)
            except KafkaException as caught:
                outcome = self._not_taken(caught)
            if outcome is not None:
                self._failed_locally(report, outcome)
                stopped[(topic, key)] = _behind(outcome)
            elif is_first:
                beginning.add((topic, lane))
        return beginning, behind

    def _hand_over_slowly(
        self, record: Record, lane: int, report: Report, deadline: float, closed: Event
    ) -> Outcome | None:
        """The client's queue is full (its 2 GiB bound): wait for room."""
        topic, value, key, headers = record
        while monotonic() < deadline and not self.is_spent and not closed.is_set():
            self._serve(SLICE_S)
            try:
                self._producer.produce(topic, value, key, lane, report, headers=headers)
                return None
            except BufferError:
                continue
            except KafkaException as caught:
                return self._not_taken(caught)
        return unknown("not sent: the client's queue stayed full")

    def _not_taken(self, caught: KafkaException) -> Outcome:
        """The client did not even queue it; only its size is the message's own fault."""
        error = error_of(caught)
        said = self._without_secrets(error.str())
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return refused(said)
        self.is_spent = True
        return unknown(f"not sent: {said}")

    def _look_up(self, topic: str, deadline: float, closed: Event) -> Outcome | None:
        """None when the topic is there with our number of lanes; asked once a producer, the broker's own word."""
        while True:
            left_s = deadline - monotonic()
            if left_s <= 0 or closed.is_set():
                return unknown("not sent: the broker did not say whether the topic exists")
            try:
                found = self._producer.list_topics(topic, timeout=min(left_s, 1.0)).topics[topic]
            except KafkaException:
                closed.wait(min(SLICE_S, max(deadline - monotonic(), 0)))
                continue
            self._connection.seen()
            if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return refused(f"topic {topic} does not exist; declare the topology first")
            if found.error is not None and not found.error.retriable():
                return refused(f"topic {topic}: {self._without_secrets(found.error.str())}")
            if found.error is not None or not found.partitions:
                closed.wait(min(SLICE_S, max(deadline - monotonic(), 0)))
                continue
            if len(found.partitions) != self._partitions:
                # Another number of lanes would put a key's messages of two publishers into two lanes.
                return refused(f"topic {topic} has {len(found.partitions)} partitions, wanted {self._partitions}")
            self._begun[topic] = set() if self._numbers_messages else set(range(self._partitions))
            return None

    def _await_answers(self, deadline: float, closed: Event) -> bool:
        """Wait until every message handed over was answered or given up; whether some never was."""
        while self._serve(max(min(SLICE_S, deadline - monotonic()), 0)):
            if self.is_spent or closed.is_set() or monotonic() >= deadline:
                break
        else:
            if not self.is_spent:
                self._connection.seen()
                return False
        self.is_spent = True
        self._producer.purge()
        # A purged message is reported too, so the queue runs empty; until it has, nothing counts as confirmed.
        given_up_s = monotonic() + PURGE_S
        while (left := self._serve(SLICE_S)) and monotonic() < given_up_s:
            continue
        unanswered = left > 0 or self._lost_reports
        log.warning("publish gave up, going on with a new producer", extra={"all_unknown": unanswered})
        return unanswered

    def _serve(self, timeout_s: float) -> int:
        """Let the client report; how many messages it still holds."""
        try:
            held: int = self._producer.flush(timeout_s)
            return held
        except (KafkaException, SystemError):
            # A fatal error (a gap averted) comes up through whatever call runs, and swallows reports on its way.
            self.is_spent = self._lost_reports = True
            return len(self._producer)

    def _failed(self, index: int, error: KafkaError | None, _: Message | None) -> None:
        """The client's report of one message that was not confirmed (successes are not reported)."""
        self.is_spent = True
        # First, since asking for the text can raise while a fatal error is on its way up.
        self._failures[index] = unknown("the client reported a failure")
        if error is not None:
            self._failures[index] = unknown(self._without_secrets(f"{error.name()}: {error.str()}"))

    def _failed_locally(self, report: Report, outcome: Outcome) -> None:
        assert isinstance(report, partial)
        self._failures[report.args[0]] = outcome


def _behind(outcome: Outcome) -> Outcome:
    return unknown(f"not sent: an earlier message of its key was not handed over ({outcome.reason})")
