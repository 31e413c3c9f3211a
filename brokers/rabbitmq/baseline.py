"""The bare clients, for the adapter's bench only: what a careful user writes by hand, at the adapter's own settings.

The same messages on the wire (body and the headers of a typical event, made beforehand), the same window, the same
prefetch, one connection and one channel; no envelope, no outcome a message, nothing to retry. Beside them the vendor's
Java tool. Rounds start when the connection stands.
"""

import asyncio
import os
import re
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import aio_pika
import pika

from brokers.rabbitmq.codec import Headers
from brokers.rabbitmq.config import RabbitConfig
from core.messaging.lanes import lane_of

ROUND_S = 120.0
"""A round that takes longer has failed."""
ACK_EVERY_MESSAGES = 500
EVENT_HEADERS: Headers = [
    ("cloudEvents_specversion", "1.0"),
    ("cloudEvents_id", "01890000-0000-7000-8000-000000000000"),
    ("cloudEvents_source", "/shop/order"),
    ("cloudEvents_type", "OrderCreated"),
    ("cloudEvents_subject", "01890000-0000-7000-8000-000000000000"),
    ("cloudEvents_time", "2026-01-01T00:00:00.000000+00:00"),
    ("cloudEvents_dataschema", "urn:dataschema:OrderCreated:1"),
    ("timestamp_in_ms", 1_767_225_600_000),
    ("cloudEvents_sequence", "1"),
]


class BarePublisher:
    """pika's SelectConnection with confirms, kept over the rounds; its loop runs in the calling thread."""

    def __init__(self, config: RabbitConfig) -> None:
        self._connection, self._channel = _pika_channel(config)
        self._connection.ioloop.call_later(0, lambda: self._channel.confirm_delivery(self._on_answer, self._on_ready))
        self._answered = self._published = 0
        self._wanted = 0
        self._refused = 0
        self._connection.ioloop.start()

    def publish_round(
        self, exchange: str, event_key: str, partitions: int, bodies: Sequence[bytes], keys: Sequence[str], window: int
    ) -> float:
        """Seconds until all are confirmed, at most `window` unconfirmed at a time; RuntimeError if one is not."""
        loop, publish, first = self._connection.ioloop, self._channel.basic_publish, self._published
        headers = dict(EVENT_HEADERS)
        self._wanted = first + len(bodies)

        def fill() -> None:
            while self._published < self._wanted and self._published - self._answered < window:
                index = self._published - first
                properties = pika.BasicProperties(
                    "application/json", None, headers, 2, message_id=headers["cloudEvents_id"], timestamp=1_767_225_600
                )
                key = f"{event_key}.{lane_of(keys[index], partitions)}"
                publish(exchange, key, bodies[index], properties, mandatory=True)
                self._published += 1

        self._fill = fill
        started = perf_counter()
        timer = loop.call_later(ROUND_S, loop.stop)
        loop.add_callback_threadsafe(fill)
        loop.start()
        loop.remove_timeout(timer)
        if self._answered < self._wanted or self._refused:
            raise RuntimeError(f"the bare publisher was not confirmed: {self._answered} of {self._wanted}")
        return perf_counter() - started

    def close(self) -> None:
        _close(self._connection)

    def _on_ready(self, _: Any) -> None:
        self._open: set[int] = set()
        self._connection.ioloop.stop()

    def _on_answer(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        self._refused += frame.method.NAME == "Basic.Nack"
        if frame.method.multiple:
            # All up to the tag, but for those that were answered one by one before.
            self._open = {each for each in self._open if each > tag}
            self._answered = tag + len(self._open)
        else:
            self._open.add(tag)
            self._answered += 1
        self._fill()
        if self._answered >= self._wanted:
            self._connection.ioloop.stop()


class BareSubscriber:
    """pika's SelectConnection with a consumer on each queue; acks every 500 messages at once."""

    def __init__(self, config: RabbitConfig, queues: Sequence[str], prefetch_messages: int) -> None:
        self._connection, self._channel = _pika_channel(config)
        self._got: deque[tuple[int, dict[str, object], bytes]] = deque()
        self._count = self._wanted = 0
        self._queues, self._prefetch = queues, max(1, prefetch_messages // len(queues))

    def receive_round(self, count: int) -> float:
        """Seconds until so many more were received and acked; a few may have come with the round before it."""
        loop = self._connection.ioloop
        self._wanted += count
        missing = self._wanted - self._count
        started = perf_counter()
        timer = loop.call_later(ROUND_S, loop.stop)
        if not self._count:
            loop.add_callback_threadsafe(self._consume)
        loop.start()
        loop.remove_timeout(timer)
        if self._count < self._wanted:
            raise RuntimeError(f"the bare subscriber still waits for {self._wanted - self._count} messages")
        return (perf_counter() - started) * count / missing

    def close(self) -> None:
        _close(self._connection)

    def _consume(self) -> None:
        self._channel.basic_qos(prefetch_count=self._prefetch)
        for queue in self._queues:
            self._channel.basic_consume(queue, self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._got.append((method.delivery_tag, properties.headers, body))
        self._count += 1
        # No later than a queue's whole prefetch, or a last queue would wait for acks that wait for it.
        if len(self._got) >= min(ACK_EVERY_MESSAGES, self._prefetch) or self._count == self._wanted:
            channel.basic_ack(method.delivery_tag, multiple=True)
            self._got.clear()
            if self._count >= self._wanted:
                self._connection.ioloop.stop()


class BareAioPublisher:
    """aio-pika with confirms: `window` publishes at a time, gathered."""

    def __init__(self, config: RabbitConfig) -> None:
        self._loop = asyncio.new_event_loop()

        async def connect() -> Any:
            connection = await aio_pika.connect(config.url)
            return connection, await connection.channel(on_return_raises=True)

        self._connection, self._channel = self._loop.run_until_complete(connect())

    def publish_round(
        self, exchange: str, event_key: str, partitions: int, bodies: Sequence[bytes], keys: Sequence[str], window: int
    ) -> float:
        """As BarePublisher's; an unconfirmed message raises aio-pika's own error."""

        async def publish_all() -> None:
            target = await self._channel.get_exchange(exchange, ensure=False)
            for first in range(0, len(bodies), window):
                pairs = zip(bodies[first : first + window], keys[first : first + window], strict=True)
                await asyncio.gather(*(target.publish(_aio_message(body), routing(key)) for body, key in pairs))

        def routing(key: str) -> str:
            return f"{event_key}.{lane_of(key, partitions)}"

        started = perf_counter()
        self._loop.run_until_complete(asyncio.wait_for(publish_all(), ROUND_S))
        return perf_counter() - started

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


class BareAioSubscriber:
    """aio-pika with a consumer on each queue; acks every 500 messages at once."""

    def __init__(self, config: RabbitConfig, queues: Sequence[str], prefetch_messages: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._count = self._wanted = 0
        self._whole = asyncio.Event()
        self._connection = self._loop.run_until_complete(aio_pika.connect(config.url))
        self._queues, self._prefetch = queues, max(1, prefetch_messages // len(queues))

    def receive_round(self, count: int) -> float:
        """As BareSubscriber's."""
        self._wanted += count
        missing = self._wanted - self._count
        self._whole.clear()
        started = perf_counter()

        async def receive_all() -> None:
            if not self._count:
                channel = await self._connection.channel()
                await channel.set_qos(self._prefetch)
                for name in self._queues:
                    await (await channel.get_queue(name, ensure=False)).consume(self._on_message)
            await self._whole.wait()

        self._loop.run_until_complete(asyncio.wait_for(receive_all(), ROUND_S))
        return (perf_counter() - started) * count / missing

    async def _on_message(self, message: Any) -> None:
        self._count += 1
        if self._count % min(ACK_EVERY_MESSAGES, self._prefetch) == 0 or self._count == self._wanted:
            await message.ack(multiple=True)
        if self._count >= self._wanted:
            self._whole.set()

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


def bare_publisher(config: RabbitConfig) -> BarePublisher | BareAioPublisher:
    return BarePublisher(config) if config.client == "pika" else BareAioPublisher(config)


def bare_subscriber(
    config: RabbitConfig, queues: Sequence[str], prefetch_messages: int
) -> BareSubscriber | BareAioSubscriber:
    kind = BareSubscriber if config.client == "pika" else BareAioSubscriber
    return kind(config, queues, prefetch_messages)


def vendor_per_s(
    config: RabbitConfig,
    queue: str,
    classpath: str,
    count: int,
    size_bytes: int,
    window: int,
    receive: bool = False,
    java: str = "java",
) -> float:
    """Messages a second by PerfTest (com.rabbitmq:perf-test) at the adapter's settings on one queue of its own type.

    `receive`: consume and ack what an earlier call left in `queue`, instead of publishing with confirms.
    """
    ours = ["--queue", queue, "--queue-args", f"x-queue-type={config.queue_type}", "--flag", "persistent"]
    if receive:
        ours += ["-x", "0", "-y", "1", "-D", str(count), "-q", str(window), "-A", str(ACK_EVERY_MESSAGES)]
    else:
        ours += ["-x", "1", "-y", "0", "-C", str(count), "-s", str(size_bytes), "-c", str(window)]
    command = [java, "-cp", classpath, "com.rabbitmq.perf.PerfTest", *ours, "--auto-delete", "false"]
    # The address goes by the environment: what a process was started with is shown to every user of the machine.
    environment = {**os.environ, "RABBITMQ_PERF_TEST_ENV_PREFIX": "TESTBED_", "TESTBED_URI": config.url}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_S, env=environment)
    return vendor_rate(ran.stdout, "receiving" if receive else "sending", ran.stderr)


def vendor_rate(printed: str, kind: str, errors: str = "") -> float:
    """The tool's average, 'id: …, sending rate avg: N msg/s'; raises RuntimeError if it printed none."""
    rates = re.findall(rf"{kind} rate avg: ([0-9.,]+) msg/s", printed)
    if not rates or not float(rates[-1].replace(",", "")):
        raise RuntimeError(f"PerfTest printed no {kind} rate: {re.sub(r'://[^@ ]*@', '://', printed + errors)[-500:]}")
    return float(rates[-1].replace(",", ""))


def _aio_message(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        headers=dict(EVENT_HEADERS),
        content_type="application/json",
        delivery_mode=2,
        message_id="01890000-0000-7000-8000-000000000000",
        timestamp=1_767_225_600,
    )


def _pika_channel(config: RabbitConfig) -> tuple[Any, Any]:
    """An open connection and channel; its loop stands still until a round runs it, so there is no heartbeat."""
    parameters = pika.URLParameters(config.url)
    parameters.heartbeat = 0
    channels: list[Any] = []

    def opened(channel: Any) -> None:
        channels.append(channel)
        connection.ioloop.stop()

    connection = pika.SelectConnection(parameters, on_open_callback=lambda c: c.channel(on_open_callback=opened))
    connection.add_on_open_error_callback(lambda *_: connection.ioloop.stop())
    connection.ioloop.start()
    if not channels:
        raise RuntimeError(f"the bare client has no connection to {config.address}")
    return connection, channels[0]


def _close(connection: Any) -> None:
    with suppress(pika.exceptions.ConnectionWrongStateError):
        connection.add_on_close_callback(lambda *_: connection.ioloop.stop())
        connection.close()
        connection.ioloop.start()
