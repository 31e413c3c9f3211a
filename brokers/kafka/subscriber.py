"""Receive in batches, settle in bulk; a lane's position is the first message of it that is not yet acked.

Positions are committed by every `ack`, asynchronously, and once more, awaited, when a lane is given away or at the end.
Retries wait in this process: the failed message, what was held behind it, and every later message of its key. Kafka
does not filter types: what the routing table leaves to other groups is passed over here, and the position goes past it.
Not here: what a record means (`codec`), how a dead letter is confirmed (`publisher`).
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import compress, repeat
from operator import is_, itemgetter
from threading import Event, RLock, Thread
from time import monotonic
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from brokers.kafka.codec import Malformed, decode_all, encode, failure_headers
from brokers.kafka.config import KafkaConfig
from brokers.kafka.errors import SILENCE, Connection, error_of, quiet_logger
from brokers.kafka.lanes import Lane, Token
from brokers.kafka.publisher import KafkaPublisher
from brokers.kafka.reading import headers_of_all, no_collection, read_record
from brokers.kafka.topology import broker_topic, dead_letter_topic, group_id, port_topic
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome, refused, unknown
from core.messaging.ports import Delivery, Failure
from core.messaging.topology import DEAD_LETTER_GROUP, DEAD_LETTER_SUFFIX, Topology

log = logging.getLogger(__name__)

SLICE_S = 0.1
"""How long one wait on the client lasts, so that `close` from another thread gets its turn."""
_PLAIN = (0, None, "", b"", (), None, None, None, None)
"""An event's Delivery but for envelope, topic, lane, token and key: attempts, redelivered, error, body, wire_headers |
failure, failed_group, origin_topic, position."""
_TOKEN, _FIRST, _SECOND = itemgetter(3), itemgetter(0), itemgetter(1)
"""Of a Delivery its token; of a token its lane and its offset."""
LEAVE_S = 5.0
"""What giving the lanes away may take; it is local but for the last commit, which waits for the broker's answer."""
CLOSE_S = 10.0
"""What leaving the group may take, its last commit with it. Without a broker librdkafka gives a commit up after 45 s,
and its `close` never ends while one is open."""
CONSUME_MESSAGES = 1_000_000
"""The client refuses to hand out more at once."""


class KafkaSubscriber:
    def __init__(self, config: KafkaConfig, topology: Topology, group: str, prefetch_messages: int) -> None:
        self._config = config
        self._topology = topology
        self._group = group
        self._prefetch_messages = max(prefetch_messages, 1)
        self._left_to_others = topology.left_to_others(group)
        self._reads_letters = group == DEAD_LETTER_GROUP
        self._connection = Connection(f"subscriber of {group}", config.bootstrap_servers, config.without_secrets)
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._moved: set[Lane] = set()
        self._consumer: Consumer | None = None
        self._dead_letters: KafkaPublisher | None = None
        self._turn = RLock()
        self._closed = Event()
        self.passed_over_messages = 0
        """Messages of known types that the group does not take, read and dropped here."""

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        deadline = monotonic() + timeout_s
        while not self._closed.is_set():
            with self._turn:
                if self._closed.is_set():
                    break
                deliveries = self._receive_once(max_messages, deadline)
            if deliveries or monotonic() >= deadline:
                return deliveries
        return []

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self._turn:
            tokens: list[Any] = list(map(_TOKEN, deliveries))
            lanes = list(map(_FIRST, tokens))
            for lane in dict.fromkeys(lanes):
                if lane.settle(map(_SECOND, compress(tokens, map(partial(is_, lane), lanes)))):
                    self._moved.add(lane)
            self._commit_moved()

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        with self._turn:
            _token(failed)[0].wait(failed, after_s, held, monotonic())

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        if delivery.topic.endswith(DEAD_LETTER_SUFFIX):
            return refused(f"{delivery.topic} has no dead letters of its own")
        lane, offset = _token(delivery)
        if not lane.holds(offset):
            return unknown("not sent: the delivery's lane was lost, it comes again")
        if self._dead_letters is None:
            self._dead_letters = KafkaPublisher(self._config.for_letters(), self._topology)
        envelope = delivery.envelope
        original = delivery.wire_headers if envelope is None else encode(envelope)
        value = (delivery.body or None) if envelope is None else envelope.data
        reasons = failure_headers(failure, self._group, delivery.topic, delivery.lane, offset)
        topic = broker_topic(self._topology, dead_letter_topic(delivery.topic))
        record = (topic, value, delivery.key, [*original, *reasons])
        [outcome] = self._dead_letters.publish_records([record], 1, timeout_s)
        if outcome.is_confirmed:
            self.ack([delivery])
        return outcome

    def close(self) -> None:
        self._closed.set()
        with self._turn:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                # The client's calls take no time-out: in a thread that the process need not wait for.
                leaving = Thread(target=self._leave, args=(consumer, list(self._lanes.values())), daemon=True)
                leaving.start()
                leaving.join(CLOSE_S)
                if leaving.is_alive():
                    log.warning("left without the broker's answer", extra={"group": self._group, "after_s": CLOSE_S})
            self._forget(list(self._lanes))
            if self._dead_letters is not None:
                self._dead_letters.close()

    def _leave(self, consumer: Consumer, lanes: Sequence[Lane]) -> None:
        """Commit, give every lane away while the client still listens, and end it.

        The client's own `close` may end its group first and hand us a revocation afterwards; what the Python client
        then asks of the ended group is never answered, and `close` waits for ever (seen with a second member joining).
        """
        self._commit_awaited(consumer, lanes)
        consumer.unsubscribe()
        deadline = monotonic() + LEAVE_S
        # At least one poll: a change that waits in the client's queue is told there.
        while True:
            consumer.poll(SLICE_S)
            if not self._lanes or monotonic() >= deadline:
                break
        consumer.close()

    def _receive_once(self, max_messages: int, deadline: float) -> list[Delivery]:
        """What is due or at hand now; else what comes within a slice."""
        consumer = self._joined()
        self._commit_moved()
        now = monotonic()
        deliveries: list[Delivery] = []
        waiting = [lane for lane in self._lanes.values() if lane.waiting]
        for lane in waiting:
            deliveries += lane.take_due(now, max_messages - len(deliveries))
            self._fit(consumer, lane)
        room = self._room(bool(waiting))
        count = min(max_messages - len(deliveries), room, CONSUME_MESSAGES)
        if deliveries:
            # What is due goes out at once; with it only what is at hand.
            return deliveries + (self._decoded(consumer.consume(count, 0)) if count > 0 else [])
        next_due = min((lane.next_due() for lane in waiting), default=deadline)
        slice_s = max(min(deadline, next_due, now + SLICE_S) - now, 0)
        if count <= 0:
            self._stand_still(consumer, slice_s)
            return []
        # consume() waits for a full batch, poll() returns with the first message: wait with one, take with the other.
        messages = consumer.consume(count, 0)
        if not messages and (first := consumer.poll(slice_s)) is not None:
            messages = [first, *(consumer.consume(count - 1, 0) if count > 1 else ())]
        return self._decoded(messages)

    def _joined(self) -> Consumer:
        if self._consumer is None:
            settings = self._config.subscriber_settings(group_id(self._topology, self._group))
            self._consumer = Consumer(
                {**settings, "error_cb": self._connection.on_error, "on_commit": self._committed}, logger=quiet_logger()
            )
            self._consumer.subscribe(
                [broker_topic(self._topology, topic) for topic in self._topology.topics_of(self._group)],
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._lost,
            )
        return self._consumer

    def _room(self, some_wait: bool) -> int:
        """How many more messages may be in hand; few at a time while a key waits, so that its lane takes no more."""
        in_hand = sum(len(lane.unacked) for lane in self._lanes.values())
        room = max(self._prefetch_messages, len(self._lanes)) - in_hand
        return min(room, self._share()) if some_wait else room

    def _share(self) -> int:
        """Messages that may wait behind failed ones in one lane before it is paused: half its part of the prefetch."""
        return max(self._prefetch_messages // (2 * max(len(self._lanes), 1)), 1)

    def _fit(self, consumer: Consumer, lane: Lane) -> None:
        """Pause a lane while much of it waits, so that the others keep room; resume it afterwards."""
        should_pause = lane.waiting_messages() > self._share()
        if should_pause is not lane.is_paused:
            (consumer.pause if should_pause else consumer.resume)([TopicPartition(lane.topic, lane.partition)])
            lane.is_paused = should_pause

    def _stand_still(self, consumer: Consumer, slice_s: float) -> None:
        """Everything allowed is in hand: let the client do its group's work without taking a message."""
        places = [TopicPartition(lane.topic, lane.partition) for lane in self._lanes.values() if not lane.is_paused]
        consumer.pause(places)
        try:
            self._hear(consumer.poll(slice_s))
        finally:
            still_ours = [place for place in places if (place.topic, place.partition) in self._lanes]
            consumer.resume(still_ours)

    def _hear(self, message: Message | None) -> None:
        """Nothing is fetched while all lanes stand still; an error may be told, a message must not get lost."""
        if message is None:
            return
        if (error := message.error()) is not None:
            self._on_error(error)
            return
        lane = self._lanes.get((message.topic(), message.partition()))
        if lane is not None and self._consumer is not None:
            self._consumer.seek(TopicPartition(lane.topic, lane.partition, message.offset()))

    def _on_error(self, error: KafkaError) -> None:
        self._connection.on_error(error)
        if error.fatal() and self._consumer is not None:
            # This client will never fetch again; a new member takes up from the committed positions.
            self._consumer.close()
            self._consumer = None
            self._forget(list(self._lanes))

    def _decoded(self, messages: Sequence[Message]) -> list[Delivery]:
        """What is to be handed over of what the client gave, lane by lane in order."""
        with no_collection():
            return self._decoded_by_lane(messages)

    def _decoded_by_lane(self, messages: Sequence[Message]) -> list[Delivery]:
        errors = list(map(Message.error, messages))
        if errors.count(None) < len(errors):
            for error in errors:
                if error is not None:
                    self._on_error(error)
            messages = [message for message, error in zip(messages, errors, strict=True) if error is None]
        by_lane: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
        for place, message in zip(places, messages, strict=True):
            by_lane[place].append(message)
        deliveries: list[Delivery] = []
        for place, of_lane in by_lane.items():
            # No lane: it was given away while these lay in the client's queue.
            if (lane := self._lanes.get(place)) is not None:
                deliveries += self._letters(lane, of_lane) if self._reads_letters else self._events(lane, of_lane)
                lane.next_offset = of_lane[-1].offset() + 1
                if lane.waiting:
                    deliveries = [d for d in deliveries if _token(d)[0] is not lane or not lane.join_queue(d)]
        if by_lane:
            self._connection.seen()
        return deliveries

    def _events(self, lane: Lane, messages: Sequence[Message]) -> list[Delivery]:
        topic = port_topic(self._topology, lane.topic)
        offsets = list(map(Message.offset, messages))
        keys, values = (list(map(part, messages)) for part in (Message.key, Message.value))
        decoded = decode_all(topic, headers_of_all(messages), keys, values)
        if Malformed in set(map(type, decoded)):
            return self._events_and_malformed(lane, messages, decoded)
        envelopes = cast(list[Envelope], decoded)
        others = self._left_to_others
        if not others.isdisjoint(map(itemgetter(2), envelopes)):
            taken = [(at, event) for at, event in zip(offsets, envelopes, strict=True) if event[2] not in others]
            self._pass_over(lane, len(messages) - len(taken))
            offsets, envelopes = [offset for offset, _ in taken], [event for _, event in taken]
        lane.unacked.update(dict.fromkeys(offsets))
        # Deliveries are made by columns and without their constructor, as the envelopes are: this is the hot path.
        columns = (
            envelopes,
            repeat(topic),
            repeat(lane.partition),
            zip(repeat(lane), offsets, strict=False),
            *map(repeat, _PLAIN[:5]),
            map(itemgetter(4), envelopes),
            *map(repeat, _PLAIN[5:]),
        )
        return list(map(tuple.__new__, repeat(Delivery), zip(*columns, strict=False)))

    def _events_and_malformed(
        self, lane: Lane, messages: Sequence[Message], envelopes: Sequence[Envelope | Malformed]
    ) -> list[Delivery]:
        deliveries = []
        for message, envelope in zip(messages, envelopes, strict=True):
            if isinstance(envelope, Envelope) and envelope.type in self._left_to_others:
                self._pass_over(lane, 1)
                continue
            lane.unacked[message.offset()] = None
            delivery = read_record(message, self._topology, (lane, message.offset()))
            # What came on the wire is kept for the malformed ones only.
            deliveries.append(delivery if delivery.envelope is None else delivery._replace(body=b"", wire_headers=()))
        return deliveries

    def _letters(self, lane: Lane, messages: Sequence[Message]) -> list[Delivery]:
        lane.unacked.update(dict.fromkeys(map(Message.offset, messages)))
        return [read_record(message, self._topology, (lane, message.offset())) for message in messages]

    def _pass_over(self, lane: Lane, count: int) -> None:
        self.passed_over_messages += count
        self._moved.add(lane)

    def _assigned(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        for place in places:
            self._lanes[place.topic, place.partition] = Lane(place.topic, place.partition)
        if places:
            self._connection.seen()

    def _revoked(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        keys = [(place.topic, place.partition) for place in places]
        self._commit_awaited(consumer, [self._lanes[key] for key in keys if key in self._lanes])
        self._forget(keys)

    def _lost(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        # Another member owns them already: a commit now would be refused, or move its position back.
        self._forget([(place.topic, place.partition) for place in places])

    def _forget(self, keys: Iterable[tuple[str, int]]) -> None:
        for key in keys:
            if (lane := self._lanes.pop(key, None)) is not None:
                lane.abandon()
                self._moved.discard(lane)

    def _commit_moved(self) -> None:
        """Tell the broker the positions that moved, without waiting; an answer with an error brings them back here."""
        if not self._moved or self._consumer is None:
            return
        places = _positions(self._moved)
        self._moved.clear()
        if places:
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except KafkaException as caught:
                self._committed(error_of(caught), places)

    def _committed(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        """The broker's answer to a commit, told from within the client's poll.

        librdkafka sends a commit again whose answer is missing, also after a later one was taken: the broker then goes
        back to where the older one points, and says that all went well.
        """
        for place in places:
            failed = error or place.error
            lane = self._lanes.get((place.topic, place.partition))
            if lane is None:
                continue
            if failed is None and place.offset >= lane.answered:
                lane.answered = place.offset
                continue
            lane.committed = None
            self._moved.add(lane)
            if failed is not None and failed.code() in SILENCE:
                self._connection.on_error(failed)

    def _commit_awaited(self, consumer: Consumer, lanes: Iterable[Lane]) -> None:
        places = _positions(lanes, again=True)
        if not places:
            return
        try:
            consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as caught:
            said = self._config.without_secrets(error_of(caught).str())
            # Nothing is lost: what was acked since the last commit is delivered once more.
            log.warning("last positions not committed", extra={"group": self._group, "error": said})


def _positions(lanes: Iterable[Lane], again: bool = False) -> list[TopicPartition]:
    """The lanes' positions, where they differ from what was committed (or of all that have one)."""
    places = []
    for lane in lanes:
        position = lane.position()
        if position is not None and (again or position != lane.committed):
            lane.committed = position
            places.append(TopicPartition(lane.topic, lane.partition, position))
    return places


def _token(delivery: Delivery) -> Token:
    return cast(Token, delivery.token)
