"""Hand a group's messages over in order per key, settle them in bulk, retry in place.

A session is one link with a consumer on each lane; a keeper thread makes the next when one is lost. What belongs to a
lost session (deliveries in hand, keys that wait for a retry) is forgotten: the broker hands it over again, in order.
Not here: streams' positions (`positions`), how a dead letter is confirmed (`sender`).
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple, cast

from brokers.rabbitmq import codec
from brokers.rabbitmq.clients import opened_link
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import NOT_FOUND, Loss
from brokers.rabbitmq.links import Arrival, Link, LinkLost
from brokers.rabbitmq.pika_link import headers_in
from brokers.rabbitmq.positions import Positions, Start
from brokers.rabbitmq.sender import FIRST_BACKOFF_S, LAST_BACKOFF_S, Sender, deadline_after
from brokers.rabbitmq.topology import (
    DEAD_LETTER_KEY,
    Lane,
    bound_routes,
    exchange_of,
    lanes_of,
    priorities,
    routing_key,
)
from core.messaging.envelope import Envelope
from core.messaging.errors import BrokerError
from core.messaging.outcomes import Outcome, refused, unknown
from core.messaging.ports import Delivery, Failure
from core.messaging.topology import DEAD_LETTER_SUFFIX, Topology

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_MEMBERS_MAX = 256


class Token(NamedTuple):
    session: "Session"
    tag: int
    headers: Mapping[str, object]


@dataclass
class _Waiting:
    """A key's messages behind its failed one, that one first."""

    due_at: float
    deliveries: deque[Delivery]


@dataclass(eq=False)
class Session:
    """One link's arrivals and what of them is unacked. Its listener methods run in the link's thread."""

    wake: threading.Event
    lanes: dict[str, Lane] = field(default_factory=dict)
    """By consumer tag."""
    raw: deque[Arrival] = field(default_factory=deque)
    owed: dict[int, Lane] = field(default_factory=dict)
    """Handed over or waiting for a retry, not acked; by tag, in order. Only the owner's thread changes it."""
    waiting: dict[tuple[str, str], _Waiting] = field(default_factory=dict)
    link: Link = field(init=False)
    loss: Loss | None = None
    lost_or_closed: threading.Event = field(default_factory=threading.Event)

    def settled(self, tag: int, multiple: bool, is_ack: bool) -> None:
        raise AssertionError("a subscriber publishes nothing on its own link")

    def returned(self, message_id: str, routing_key: str, reason: str) -> None:
        raise AssertionError("a subscriber publishes nothing on its own link")

    def delivered(self, arrivals: Sequence[Arrival]) -> None:
        self.raw.extend(arrivals)

    def lost(self, loss: Loss) -> None:
        self.loss = loss
        self.lost_or_closed.set()

    def told(self) -> None:
        if self.raw:
            self.wake.set()

    def acks_of(self, tags: Sequence[int]) -> list[tuple[int, bool]]:
        """The fewest acks that settle exactly `tags`: one for all up to the last that leaves none before it owed."""
        for tag in tags:
            del self.owed[tag]
        lowest = next(iter(self.owed), None)
        covered = tags if lowest is None else [tag for tag in tags if tag < lowest]
        acks = [(max(covered), True)] if covered else []
        if len(covered) < len(tags):
            acks += [(tag, False) for tag in tags if lowest is not None and tag > lowest]
        return acks


class RabbitSubscriber:
    def __init__(
        self,
        config: RabbitConfig,
        topology: Topology,
        group: str,
        prefetch_messages: int,
        positions: Positions,
        redeclare: Callable[[], None],
    ) -> None:
        self._config, self._topology, self.group = config, topology, group
        self._lanes = lanes_of(topology, config, group)
        self._prefetch = max(1, prefetch_messages // max(1, len(self._lanes)))
        self._positions, self._redeclare = positions, redeclare
        self._is_stream = config.queue_type == "stream"
        self._left_to_others = topology.left_to_others(group)
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._session: Session | None = None
        self._keeper: threading.Thread | None = None
        self._letters: Sender | None = None

    # --- the port

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        deadline = monotonic() + timeout_s
        self._start()
        while not self._closed.is_set():
            self._wake.clear()
            session = self._session
            batch: list[Delivery] = []
            due_at = deadline
            if session is not None and session.loss is None:
                self._take_due(session, batch, max_messages)
                self._take_new(session, batch, max_messages)
                due_at = min((waiting.due_at for waiting in session.waiting.values()), default=deadline)
            now = monotonic()
            if batch or now >= deadline:
                return batch
            self._wake.wait(max(0.0, min(deadline, due_at) - now))
        return []

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        session = self._session
        if session is None or session.loss is not None:
            return
        owed, tags = session.owed, dict[int, None]()
        for delivery in deliveries:
            token = _token(delivery)
            if token.session is session and token.tag in owed:
                tags[token.tag] = None
                if self._is_stream:
                    self._positions.acked(self.group, owed[token.tag].queue, _stream_offset(token.headers))
        if tags:
            session.link.ack(session.acks_of(list(tags)))

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        session = self._session
        if session is None or not self._holds(session, failed):
            return
        line = deque([failed._replace(attempts=failed.attempts + 1)])
        line.extend(delivery for delivery in held if self._holds(session, delivery))
        behind = session.waiting.get((failed.topic, failed.key))
        if behind is not None:
            line.extend(behind.deliveries)
        session.waiting[failed.topic, failed.key] = _Waiting(monotonic() + after_s, line)

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        session = self._session
        if session is None or not self._holds(session, delivery):
            return unknown("not sent: the delivery's connection was lost, it comes again")
        if delivery.topic.endswith(DEAD_LETTER_SUFFIX):
            return refused(f"{delivery.topic} has no dead letters of its own")
        if self._letters is None:
            name = f"{self._topology.prefix}{self.group}.letters"
            self._letters = Sender(self._config, name, self._redeclare, bound_routes(self._topology, self._config))
        letter = self._letter(delivery, failure)
        outcome = self._letters.send([delivery.key], lambda _: letter, [None], deadline_after(timeout_s))[0]
        if outcome.is_confirmed:
            self.ack([delivery])
        return outcome

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        session, self._session = self._session, None
        if session is not None:
            session.lost_or_closed.set()
            session.link.close(5.0)
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(2 * _CONNECT_TIMEOUT_S)
        if self._letters is not None:
            self._letters.close()

    def unacked(self) -> Counter[tuple[str, int]]:
        """By topic and lane: handed over or fetched, and not acked."""
        session = self._session
        if session is None or session.loss is not None:
            return Counter()
        lanes = [session.lanes[arrival.consumer] for arrival in tuple(session.raw) if arrival.consumer in session.lanes]
        return Counter((lane.topic, lane.lane) for lane in (*tuple(session.owed.values()), *lanes))

    # --- handing over

    def _take_due(self, session: Session, batch: list[Delivery], max_messages: int) -> None:
        now = monotonic()
        for key in [key for key, waiting in session.waiting.items() if waiting.due_at <= now]:
            deliveries = session.waiting[key].deliveries
            while deliveries and len(batch) < max_messages:
                batch.append(deliveries.popleft())
            if not deliveries:
                del session.waiting[key]

    def _take_new(self, session: Session, batch: list[Delivery], max_messages: int) -> None:
        raw, lanes, owed, waiting = session.raw, session.lanes, session.owed, session.waiting
        passed_over: list[Delivery] = []
        while raw and len(batch) < max_messages:
            arrival = raw.popleft()
            lane = lanes.get(arrival.consumer)
            if lane is None:
                raw.appendleft(arrival)  # Its consume is not answered yet: the next look knows the lane.
                self._wake.set()
                break
            if self._is_stream:
                arrival = arrival._replace(redelivered=None)
            delivery = delivery_of(arrival, lane, session)
            owed[arrival.tag] = lane
            if self._is_stream and not self._takes(delivery, lane):
                passed_over.append(delivery)
            elif waiting and (delivery.topic, delivery.key) in waiting:
                waiting[delivery.topic, delivery.key].deliveries.append(delivery)
            else:
                batch.append(delivery)
        if passed_over:
            self.ack(passed_over)

    def _takes(self, delivery: Delivery, lane: Lane) -> bool:
        """A stream holds every type of its topic, and a read from an instant begins with a whole chunk."""
        headers = _token(delivery).headers
        self._positions.arrived(self.group, lane.queue, _stream_offset(headers))
        if codec.MARKER in headers or self._positions.is_before_start(self.group, lane.queue, headers):
            return False
        return delivery.envelope is None or delivery.envelope.type not in self._left_to_others

    def _holds(self, session: Session, delivery: Delivery) -> bool:
        token = _token(delivery)
        return token.session is session and session.loss is None and token.tag in session.owed

    def _letter(self, delivery: Delivery, failure: Failure) -> codec.Outgoing:
        headers = [
            (name, value)
            for name, value in _token(delivery).headers.items()
            if isinstance(value, str | bytes) or (isinstance(value, int) and -(2**63) <= value < 2**63)
        ]
        headers += codec.failure_headers(failure, self.group, delivery.topic)
        id_ = delivery.envelope.id if delivery.envelope is not None else ""
        return codec.Outgoing(
            exchange_of(self._topology, delivery.topic) + DEAD_LETTER_SUFFIX,
            routing_key(DEAD_LETTER_KEY, delivery.lane),
            # AMQP's own field takes 255 bytes; the id itself stands in the headers.
            id_ if len(id_.encode()) <= 255 else "",
            int(failure.last_failed_at.timestamp()),
            headers,
            delivery.body,
        )

    # --- keeping a session

    def _start(self) -> None:
        if self._keeper is None and not self._closed.is_set():
            self._keeper = threading.Thread(target=self._keep, name=f"rabbitmq-{self.group}", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closed.is_set():
            session = Session(self._wake)
            try:
                self._connect(session)
            except (LinkLost, BrokerError) as error:
                log.info("subscriber has no connection yet", extra={"group": self.group, "reason": str(error)})
                self._closed.wait(backoff_s)
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
                continue
            backoff_s = FIRST_BACKOFF_S
            self._session = session
            self._wake.set()
            if self._closed.is_set():
                session.link.close(5.0)
                return
            session.lost_or_closed.wait()
            if session.loss is not None:
                session.link.abort()
                extra = {"group": self.group, "unacked_messages": len(session.owed), "reason": session.loss.reason}
                log.warning("subscriber's connection lost", extra=extra)

    def _connect(self, session: Session) -> None:
        session.link = opened_link(self._config, session, False, _CONNECT_TIMEOUT_S)
        try:
            self._consume(session)
        except LinkLost as lost:
            session.link.abort()
            if lost.loss.code == NOT_FOUND:
                self._redeclare()
            raise

    def _consume(self, session: Session) -> None:
        ranks = [0] * len(self._lanes) if self._is_stream else priorities(self._slot(session.link), len(self._lanes))
        for lane, priority in zip(self._lanes, ranks, strict=True):
            arguments: dict[str, Start] = {"x-priority": priority}
            if self._is_stream:
                arguments = {"x-stream-offset": self._positions.start(self.group, lane.queue)}
            tag = session.link.consume(lane.queue, self._prefetch, arguments, _CONNECT_TIMEOUT_S)
            session.lanes[tag] = lane

    def _slot(self, link: Link) -> int:
        """The lowest number that no living member of the group holds."""
        for slot in range(_MEMBERS_MAX):
            if link.lock(f"{self._topology.prefix}{self.group}.member.{slot}", _CONNECT_TIMEOUT_S):
                return slot
        raise BrokerError(f"group {self.group} has {_MEMBERS_MAX} members: more than this adapter spreads lanes over")


def delivery_of(arrival: Arrival, lane: Lane, session: object) -> Delivery:
    headers, topic = headers_of(arrival), lane.topic
    envelope: Envelope | None = None
    error = failed_group = origin_topic = ""
    failure = None
    is_letter = topic.endswith(DEAD_LETTER_SUFFIX)
    if is_letter:
        failure = codec.failure_of(headers)
        failed_group = str(headers.get(codec.FAILED_GROUP, ""))
        topic = origin_topic = str(headers.get(codec.ORIGIN) or topic.removesuffix(DEAD_LETTER_SUFFIX))
    try:
        envelope = codec.envelope_of(headers, arrival.body, topic)
        key = envelope.key
    except codec.Malformed as wrong:
        error = str(wrong)
        subject = headers.get("cloudEvents_subject", "")
        key = subject if isinstance(subject, str) else ""
    return Delivery(
        envelope,
        lane.topic,
        lane.lane,
        Token(cast(Session, session), arrival.tag, headers),
        0,
        arrival.redelivered,
        error,
        arrival.body,
        # Only who keeps the raw message reads them; a table costs as much as the envelope.
        codec.wire_headers(headers) if envelope is None or is_letter else (),
        key,
        failure,
        failed_group or None,
        origin_topic or None,
    )


def headers_of(arrival: Arrival) -> dict[str, object]:
    if isinstance(arrival.properties, bytes):
        return headers_in(arrival.properties)
    return cast(dict[str, object], arrival.properties)


def _stream_offset(headers: Mapping[str, object]) -> int:
    return cast(int, headers["x-stream-offset"])


def _token(delivery: Delivery) -> Token:
    assert isinstance(delivery.token, Token), "a delivery of another adapter"
    return delivery.token
