"""A link over aio-pika: an asyncio loop in a thread of its own, the same synchronous outside.

aio-pika connects, tunes, beats and closes; its channel (aiormq's) encodes and decodes. What it makes for each message
beside that, a task and a future, is left out: one task sends everything in order, and answers and deliveries are taken
where the connection puts them, before the channel's reader.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import aio_pika
import aiormq
from aio_pika.exceptions import AMQPError
from aiormq import spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from brokers.rabbitmq.codec import Outgoing
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import LOCKED, Loss, loss_of
from brokers.rabbitmq.links import Arrival, LinkLost, Listener

_CLIENT_ERRORS = (AMQPError, aiormq.AMQPError, ConnectionError, OSError, RuntimeError, asyncio.InvalidStateError)

_LAST_ROUNDS = 5
AIORMQ_ATTRIBUTES = ("frames", "put")
"""Beside the public: each channel has a queue `frames`, which its connection fills by `put`. Tested: aiormq 7.2."""


class _Loop(asyncio.SelectorEventLoop):
    """Remembers its connections: aiormq keeps its socket to itself, and `abort` must close it at once."""

    transports: list[asyncio.BaseTransport]

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        transport, protocol = await super().create_connection(*arguments, **options)
        self.transports.append(transport)
        return transport, protocol


class AioPikaLink:
    def __init__(self, config: RabbitConfig, listener: Listener) -> None:
        self._config, self._listener = config, listener
        self._loop = _Loop()
        self._loop.transports = []
        self._thread = threading.Thread(target=self._run, name="rabbitmq-aio", daemon=True)
        self._connection: Any = None
        self._channel: Any = None
        self._waiting: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        """What is still to be sent, in order: batches of publishes and of acks."""
        self._sender: asyncio.Task[None] | None = None
        self._unsent_messages = 0
        self._pass_on: Any = None
        self._took_any = False
        self._content: _Content | None = None
        self._arrivals: list[Arrival] = []
        self._telling = False
        self._owner_ended = False
        self._is_lost = False

    # --- the owner's thread

    def open(self, confirms: bool, timeout_s: float) -> None:
        self._thread.start()
        self._call(self._open(confirms), timeout_s)

    def lock(self, name: str, timeout_s: float) -> bool:
        try:
            self._call(self._lock(name), timeout_s)
        except LinkLost as lost:
            if lost.loss.code == LOCKED:
                return False
            raise
        return True

    def send(self, batch: Sequence[Outgoing]) -> None:
        self._on_loop(self._enqueue, partial(self._publish, batch), len(batch))

    def unsent_bytes(self) -> int:
        return int(self._call(self._unsent(), 1.0))

    def is_blocked(self) -> bool:
        """Never: aiormq keeps it to itself."""
        return False

    def consume(self, queue: str, prefetch_messages: int, arguments: Mapping[str, object], timeout_s: float) -> str:
        return str(self._call(self._consume(queue, prefetch_messages, dict(arguments)), timeout_s))

    def ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        self._on_loop(self._enqueue, partial(self._ack, tags), 0)

    def close(self, timeout_s: float) -> None:
        self._owner_ended = True
        if self._connection is not None and not self._is_lost:
            with suppress(LinkLost):  # It is as closed as it can be; `abort` ends the rest.
                self._call(self._close(), timeout_s)
        self.abort()

    def abort(self) -> None:
        self._owner_ended = True
        if self._thread.is_alive():
            self._on_loop(self._abort)
            if threading.current_thread() is not self._thread:
                self._thread.join(5.0)

    # --- between the threads

    def _on_loop(self, call: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def _call(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        if self._loop.is_closed():
            work.close()
            raise LinkLost(Loss(0, "the link is closed"))
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            future.cancel()
            raise LinkLost(Loss(0, f"no answer within {timeout_s:.1f} s")) from None
        except asyncio.CancelledError:
            raise LinkLost(Loss(0, "the link was closed meanwhile")) from None
        except _CLIENT_ERRORS as error:
            raise LinkLost(loss_of(error)) from error

    # --- the I/O thread

    def _run(self) -> None:
        self._loop.run_forever()
        for _ in range(_LAST_ROUNDS):
            # aiormq's tasks start others as they end.
            if not (tasks := asyncio.all_tasks(self._loop)):
                break
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=0.2))
        self._loop.close()

    async def _open(self, confirms: bool) -> None:
        separator = "&" if "?" in self._config.url else "?"
        url = f"{self._config.url}{separator}heartbeat={self._config.heartbeat_s}"
        self._connection = await aio_pika.connect(url)
        self._connection.close_callbacks.add(self._on_close)
        # Not aiormq's own confirms: it keeps a future a message, and walks through all of them at each answer.
        channel = await self._connection.channel(publisher_confirms=False, on_return_raises=False)
        channel.close_callbacks.add(self._on_close)
        self._channel = await channel.get_underlay_channel()
        frames = self._channel.frames
        self._pass_on, frames.put = frames.put, self._take
        await self._channel.rpc(spec.Confirm.Select() if confirms else spec.Basic.Qos())
        if not self._took_any:
            raise RuntimeError(
                f"aiormq {version('aiormq')} does not hand its frames over where this adapter takes them; "
                "use RABBITMQ_CLIENT=pika, or the aiormq that requirements.lock names"
            )

    async def _close(self) -> None:
        """Acks first: `close` alone overtakes them."""
        if self._sender is not None:
            await self._sender
        await self._connection.close()

    async def _lock(self, name: str) -> None:
        channel = await self._connection.channel()
        await channel.declare_queue(name, durable=False, exclusive=True)
        await channel.close()

    async def _consume(self, queue: str, prefetch_messages: int, arguments: dict[str, Any]) -> str:
        await self._channel.basic_qos(prefetch_count=prefetch_messages)
        started = await self._channel.basic_consume(queue, _unused_delivery, arguments=arguments)
        return str(started.consumer_tag)

    async def _unsent(self) -> int:
        buffered = (transport.get_write_buffer_size() for transport in self._loop.transports)  # type: ignore[attr-defined]
        return 0 if self._is_lost else self._unsent_messages + sum(buffered)

    def _enqueue(self, work: Callable[[], Coroutine[Any, Any, None]], messages: int) -> None:
        if self._is_lost:
            return
        self._unsent_messages += messages
        self._waiting.append(work)
        if self._sender is None or self._sender.done():
            self._sender = self._loop.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        """One task for everything: an ack up to a tag must not pass the acks before it."""
        try:
            while self._waiting:
                await self._waiting.popleft()()
        except _CLIENT_ERRORS as error:
            self._waiting.clear()
            self._lose(loss_of(error))

    async def _publish(self, batch: Sequence[Outgoing]) -> None:
        publish, last = self._channel.basic_publish, batch[-1]
        for message in batch:
            await publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=_properties(message),
                mandatory=True,
                wait=message is last,
            )
            self._unsent_messages -= 1

    async def _ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        for tag, upto in tags:
            await self._channel.basic_ack(tag, multiple=upto, wait=(tag, upto) == tags[-1])

    async def _take(self, item: tuple[int, Any]) -> None:
        """One frame of the channel, as its connection read it."""
        frame, content = item[1], self._content
        self._took_any = True
        match frame:
            case ContentBody() if content is not None:
                content.parts.append(frame.value)
                content.missing_bytes -= len(frame.value)
            case ContentHeader() if content is not None:
                content.properties, content.missing_bytes = frame.properties, frame.body_size
            case spec.Basic.Deliver() | spec.Basic.Return():
                self._content = _Content(frame)
                return
            case spec.Basic.Ack() | spec.Basic.Nack():
                self._listener.settled(frame.delivery_tag, frame.multiple, type(frame) is spec.Basic.Ack)
            case spec.Basic.Cancel():
                self._lose(Loss(0, "the broker cancelled a consumer: queue deleted"))
                return
            case _:
                await self._pass_on(item)
                return
        if content is not None and content.missing_bytes <= 0:
            self._content = None
            self._whole(content)
        self._tell_soon()

    def _whole(self, content: "_Content") -> None:
        method, body = content.method, content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
        if type(method) is spec.Basic.Return:
            self._listener.returned(content.properties.message_id or "", method.routing_key, method.reply_text)
            return
        headers = content.properties.headers or {}
        self._arrivals.append(
            Arrival(
                method.consumer_tag,
                method.delivery_tag,
                bool(method.redelivered),
                method.routing_key,
                # pamqp writes and reads AMQP's byte arrays as bytearray only.
                {name: bytes(value) if type(value) is bytearray else value for name, value in headers.items()},
                body,
            )
        )

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        if self._arrivals:
            arrivals, self._arrivals = self._arrivals, []
            self._listener.delivered(arrivals)
        self._listener.told()

    def _on_close(self, _: Any, error: BaseException | None) -> None:
        self._lose(loss_of(error) if error is not None else Loss(0, "connection closed"))

    def _lose(self, loss: Loss) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        if not self._owner_ended:
            self._listener.lost(loss)

    def _abort(self) -> None:
        self._is_lost = True
        for transport in self._loop.transports:
            transport.abort()  # type: ignore[attr-defined]
        # One turn later: the transports close their sockets in the next.
        self._loop.call_soon(self._loop.stop)


class _Content:
    """A deliver or a return that is still arriving."""

    __slots__ = ("method", "missing_bytes", "parts", "properties")

    def __init__(self, method: Any) -> None:
        self.method = method
        self.properties: Any = None
        # Of a body that nobody has announced yet.
        self.missing_bytes = 1
        self.parts: list[bytes] = []


def _properties(message: Outgoing) -> Any:
    return spec.Basic.Properties(
        content_type="application/json",
        headers={name: bytearray(value) if type(value) is bytes else value for name, value in message.headers},
        delivery_mode=2 if message.is_persistent else 1,
        message_id=message.message_id,
        timestamp=datetime.fromtimestamp(message.timestamp_s, UTC),
    )


def _unused_delivery(_: Any) -> None:
    raise AssertionError("deliveries are read by _take")
