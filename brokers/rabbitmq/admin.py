"""Declare, check, measure, read again and delete a topology. Over pika's BlockingConnection, with either client:
none of it is hot, and one call after the other is what it is.
"""

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from time import monotonic, sleep, time
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from brokers.rabbitmq import codec
from brokers.rabbitmq.capabilities import capabilities_of
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.delay import AuditTails
from brokers.rabbitmq.errors import NOT_FOUND, loss_of, mismatch_of, unavailable
from brokers.rabbitmq.links import Arrival
from brokers.rabbitmq.pika_link import AnyHeaders
from brokers.rabbitmq.positions import Positions
from brokers.rabbitmq.sender import FIRST_BACKOFF_S, Sender, deadline_after
from brokers.rabbitmq.subscriber import RabbitSubscriber, delivery_of
from brokers.rabbitmq.topology import Lane, audit_stream_of, exchanges_of, lanes_of, queues_of, routing_key
from core.messaging.errors import BrokerUnavailable, NotCapable, TopologyMismatch
from core.messaging.ports import Delivery, Lag
from core.messaging.topology import DEAD_LETTER_GROUP, Topology

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_READ_PREFETCH = 1_000
_STATISTICS_S = 8.0
"""The management API tells what is unacked from statistics up to 5 s old, the broker's default; with a margin."""
_REGISTERED_S = 1.2
"""RabbitMQ writes down that a quorum queue or stream was made up to two times 500 ms later; killed before, it starts
that queue anew and empty, and without a leader (seen on 4.0.5 at 0.65 s, never from 1.2 s on)."""


class RabbitAdmin:
    def __init__(
        self,
        config: RabbitConfig,
        topology: Topology,
        positions: Positions,
        members: Callable[[str], Sequence[RabbitSubscriber]],
    ) -> None:
        """`members`: this process's living subscribers of a group."""
        self._config, self._topology, self._positions, self._members = config, topology, positions, members
        self._capabilities = capabilities_of(config, topology)
        self._tails = AuditTails()

    def declare(self) -> None:
        self._topology.check()
        with self._channel() as channel:
            self._refuse_other_kind(channel.connection)
            self._refuse_other_lanes(channel.connection)
        self.restore()

    def restore(self) -> None:
        """Put back what the broker lost of a topology that was declared before."""
        plans = list(queues_of(self._topology, self._config))
        with self._channel() as channel:
            # What is declared last of each name tells whether all of them were there.
            last = [plan for plan in plans if plan.name.endswith(".0") or plan.arguments["x-queue-type"] == "stream"]
            makes_any = not all(_exists(channel.connection, plan.name) for plan in last)
            for name in exchanges_of(self._topology):
                channel.exchange_declare(name, "direct", durable=True)
            # Last lanes first: where lane 0 is, all are, also after a declare that was cut short.
            for plan in reversed(plans):
                channel.queue_declare(plan.name, durable=True, arguments=dict(plan.arguments))
                for key in plan.routing_keys:
                    channel.queue_bind(plan.name, plan.exchange, key)
        if makes_any and any(plan.arguments["x-queue-type"] != "classic" for plan in plans):
            sleep(_REGISTERED_S)

    def check_ready(self, timeout_s: float) -> None:
        """By the config's own client, so that the very path of a publisher is what answers."""
        deadline = deadline_after(timeout_s)
        queue = f"{self._topology.prefix}check-ready.{uuid4()}"
        arguments = {"x-expires": 60_000}
        self._retried(
            deadline, timeout_s, lambda channel: channel.queue_declare(queue, durable=True, arguments=arguments)
        )
        sender = Sender(self._config, f"{self._topology.prefix}check", lambda: None)
        try:
            message = codec.Outgoing("", queue, "check", int(time()), [], b"{}", self._config.confirms)
            outcome = sender.send(["check"], lambda _: message, [None], deadline)[0]
        finally:
            sender.close()
        if not outcome.is_confirmed:
            raise unavailable(self._config.address, timeout_s, loss_of(ConnectionError(outcome.reason)))
        with self._channel() as channel:
            channel.queue_delete(queue)

    def lag(self, group: str) -> Mapping[str, Lag]:
        """Ready: the broker's word, exact. Unacked: this process's subscribers, exact; of other processes by the
        management API where `management_url` is set, as old as the broker's own interval; without it not at all, which
        is as good while nobody consumes. Delay: see `delay`; None for dead letters, which have no audit stream."""
        if self._config.queue_type == "stream":
            return self._stream_lag(group)
        lanes = lanes_of(self._topology, self._config, group)
        own = [member.unacked() for member in self._members(group)]
        elsewhere = self._unacked_by_management(group)
        waiting: dict[str, dict[int, int]] = {topic: {} for topic in self._topology.topics_of(group)}
        told: dict[str, dict[int, int]] = {topic: {} for topic in waiting}
        told_after_s: dict[str, float | None] = dict.fromkeys(waiting, 0.0)
        with self._channel() as channel:
            for lane in lanes:
                queue = channel.queue_declare(lane.queue, passive=True).method
                waiting[lane.topic][lane.lane] = queue.message_count
                if queue.consumer_count:
                    told_after_s[lane.topic] = None if self._config.management_url is None else _STATISTICS_S
                told[lane.topic][lane.lane] = max(
                    elsewhere.get(lane.queue, 0), sum(count[lane.topic, lane.lane] for count in own)
                )
            owed = {
                topic: {lane: n + told[topic][lane] for lane, n in lanes_.items()} for topic, lanes_ in waiting.items()
            }
            return {
                topic: Lag(
                    sum(counts.values()), self._delay_s(channel.connection, group, topic, counts), told_after_s[topic]
                )
                for topic, counts in owed.items()
            }

    def _delay_s(self, connection: Any, group: str, topic: str, owed: Mapping[int, int]) -> float | None:
        if not any(owed.values()):
            return 0.0
        if not self._topology.audit or group == DEAD_LETTER_GROUP:
            return None
        taken = self._topology.subscriptions[group].intersection(self._topology.types_of(topic))
        keys = [self._topology.routes[name].event_key for name in taken]
        by_keys = {frozenset(routing_key(key, lane) for key in keys): count for lane, count in owed.items()}
        oldest_ms = self._tails.oldest_ms(connection, audit_stream_of(self._topology, topic), by_keys)
        return None if oldest_ms is None else max(0.0, time() - oldest_ms / 1000)

    def read_all(self, topic: str, since: datetime | None = None) -> Iterator[Delivery]:
        if not self._topology.audit:
            raise NotCapable(self._capabilities.profile, "retains_after_ack")
        stream = audit_stream_of(self._topology, topic)
        since_ms = None if since is None else int(since.timestamp() * 1000)
        for arrival in self._read_stream(stream, since or "first"):
            headers: Any = arrival.properties
            published_ms = codec.published_ms(headers)
            if since_ms is None or published_ms is None or published_ms >= since_ms:
                lane = arrival.routing_key.rpartition(".")[2]
                delivery = delivery_of(arrival, Lane(topic, int(lane) if lane.isdecimal() else 0, stream), None)
                # One stream holds all lanes: positions grow within a lane, with gaps.
                yield delivery._replace(position=int(headers["x-stream-offset"]))

    def replay(self, group: str, since: datetime | None = None) -> None:
        if not self._capabilities.replay:
            raise NotCapable(self._capabilities.profile, "replay")
        self._positions.move(group, since)

    def delete(self) -> None:
        with self._channel() as channel:
            for plan in queues_of(self._topology, self._config):
                channel.queue_delete(plan.name)
            for name in exchanges_of(self._topology):
                channel.exchange_delete(name)

    def close(self) -> None:
        """Each call has a connection of its own."""

    # --- details

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """A channel with the port's errors."""
        parameters = pika.URLParameters(self._config.url)
        parameters.heartbeat = self._config.heartbeat_s
        parameters.socket_timeout = parameters.stack_timeout = _TIMEOUT_S
        parameters.blocked_connection_timeout = _TIMEOUT_S
        begun = monotonic()
        connection = None
        try:
            connection = pika.BlockingConnection(parameters, AnyHeaders)
            yield connection.channel()
        except (AMQPError, OSError) as error:
            loss = loss_of(error)
            raise mismatch_of(loss) or unavailable(self._config.address, monotonic() - begun, loss) from error
        finally:
            if connection is not None and connection.is_open:
                connection.close()

    def _retried(self, deadline: float, timeout_s: float, call: Callable[[Any], object]) -> None:
        while True:
            try:
                with self._channel() as channel:
                    call(channel)
                return
            except BrokerUnavailable as error:
                if monotonic() + FIRST_BACKOFF_S >= deadline:
                    raise unavailable(self._config.address, timeout_s, loss_of(error)) from error
            sleep(FIRST_BACKOFF_S)

    def _refuse_other_kind(self, connection: Any) -> None:
        """Streams and queues have other names: both at once would fill what nobody reads. An audit stream that is not
        wanted any more would make every message routable."""
        is_stream = self._config.queue_type == "stream"
        other = replace(self._config, queue_type="quorum" if is_stream else "stream", durability="confirmed")
        wanted = {plan.name for plan in queues_of(self._topology, self._config)}
        for plan in queues_of(self._topology, other):
            if plan.name not in wanted and plan.name.endswith(".0") and _exists(connection, plan.name):
                found = "quorum or classic" if is_stream else "stream"
                raise TopologyMismatch(f"queue {plan.name}", "x-queue-type", self._config.queue_type, found)
        for topic in () if self._topology.audit else self._topology.topics:
            stream = audit_stream_of(self._topology, topic)
            if _exists(connection, stream):
                raise TopologyMismatch(f"stream {stream}", "audit", False, True)

    def _refuse_other_lanes(self, connection: Any) -> None:
        """Another number of lanes puts keys into other lanes; a lane beyond the wanted ones has no reader."""
        lanes = self._topology.partitions
        for plan in queues_of(self._topology, self._config):
            if plan.name.endswith(".0") and _exists(connection, plan.name):
                name = plan.name.removesuffix(".0")
                if not _exists(connection, f"{name}.{lanes - 1}"):
                    raise TopologyMismatch(name, "partitions", lanes, f"fewer than {lanes}")
                if _exists(connection, f"{name}.{lanes}"):
                    raise TopologyMismatch(name, "partitions", lanes, f"more than {lanes}")

    def _read_stream(self, stream: str, start: str | int | datetime) -> Iterator[Arrival]:
        """Everything confirmed before this call, up to a marker published now, straight into the stream: a count or
        an idle moment could end too early."""
        marker = str(uuid4())
        with self._channel() as channel:
            channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2, headers={codec.MARKER: marker})
            channel.basic_publish("", stream, b"", properties, mandatory=True)
            channel.basic_qos(prefetch_count=_READ_PREFETCH)
            arguments = {"x-stream-offset": start}
            for number, (method, found, body) in enumerate(channel.consume(stream, arguments=arguments), 1):
                headers = {str(name): value for name, value in (found.headers or {}).items()}
                if headers.get(codec.MARKER) == marker:
                    break
                if number % (_READ_PREFETCH // 2) == 0:
                    channel.basic_ack(method.delivery_tag, multiple=True)
                if codec.MARKER not in headers:
                    yield Arrival("", method.delivery_tag, None, method.routing_key, headers, body)
            channel.cancel()

    def _stream_lag(self, group: str) -> Mapping[str, Lag]:
        """Counts by reading: a stream says how many messages it holds only every few seconds."""
        behind: dict[str, list[int]] = {topic: [] for topic in self._topology.topics_of(group)}
        now_ms = int(time() * 1000)
        others = self._topology.left_to_others(group)
        for lane in lanes_of(self._topology, self._config, group):
            start = self._positions.next_offset(group, lane.queue)
            for arrival in self._read_stream(lane.queue, "first" if start is None else start):
                headers: Any = arrival.properties
                if str(headers.get("cloudEvents_type")) not in others:
                    behind[lane.topic].append(codec.published_ms(headers) or now_ms)
        return {
            topic: Lag(len(each), max(0, now_ms - min(each, default=now_ms)) / 1000) for topic, each in behind.items()
        }

    def _unacked_by_management(self, group: str) -> Mapping[str, int]:
        if self._config.management_url is None:
            return {}
        parts = urlsplit(self._config.management_url)
        host = parts.netloc.rpartition("@")[2]
        path = f"/api/queues/{quote(self._config.vhost, safe='')}?disable_stats=true&enable_queue_totals=true"
        request = Request(urlunsplit((parts.scheme, host, path.partition("?")[0], path.partition("?")[2], "")))
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        request.add_header("Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode())
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as answer:
                queues = json.load(answer)
        except (URLError, OSError, ValueError) as error:
            raise unavailable(host, _TIMEOUT_S, loss_of(error)) from error
        names = {lane.queue for lane in lanes_of(self._topology, self._config, group)}
        return {q["name"]: int(q.get("messages_unacknowledged", 0)) for q in queues if q["name"] in names}


def _exists(connection: Any, queue: str) -> bool:
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except ChannelClosedByBroker as closed:
        if closed.reply_code != NOT_FOUND:
            raise
        return False
    channel.close()
    return True
