"""A link over aio-pika: an asyncio loop in a thread of its own, the same synchronous outside."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any

import aio_pika
import aiormq
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError

from brokers.rabbitmq.codec import Outgoing
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import LOCKED, Loss, loss_of
from brokers.rabbitmq.links import Arrival, LinkLost, Listener

_CLIENT_ERRORS = (AMQPError, aiormq.AMQPError, ConnectionError, OSError, RuntimeError, asyncio.InvalidStateError)


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
        self._exchanges: dict[str, Any] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._acking: set[asyncio.Task[None]] = set()
        self._arrivals: list[Arrival] = []
        self._telling = False
        self._last_tag = 0
        self._owner_ended = False
        self._is_lost = False
        self._is_blocked = False

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
        self._on_loop(self._send, batch)

    def unsent_bytes(self) -> int:
        return len(self._sending)

    def is_blocked(self) -> bool:
        return self._is_blocked

    def consume(self, queue: str, prefetch_messages: int, arguments: Mapping[str, object], timeout_s: float) -> str:
        return str(self._call(self._consume(queue, prefetch_messages, dict(arguments)), timeout_s))

    def ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        self._on_loop(self._ack, tags)

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
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        self._loop.close()

    async def _open(self, confirms: bool) -> None:
        separator = "&" if "?" in self._config.url else "?"
        url = f"{self._config.url}{separator}heartbeat={self._config.heartbeat_s}"
        self._connection = await aio_pika.connect(url)
        self._connection.close_callbacks.add(self._on_close)
        self._channel = await self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        self._channel.close_callbacks.add(self._on_close)

    async def _close(self) -> None:
        """Acks first: `close` alone overtakes them."""
        await asyncio.gather(*self._acking)
        await self._connection.close()

    async def _lock(self, name: str) -> None:
        channel = await self._connection.channel()
        await channel.declare_queue(name, durable=False, exclusive=True)
        await channel.close()

    async def _consume(self, queue: str, prefetch_messages: int, arguments: dict[str, Any]) -> str:
        channel = await self._channel.get_underlay_channel()
        await channel.basic_qos(prefetch_count=prefetch_messages)
        started = await channel.basic_consume(queue, self._on_message, arguments=arguments)
        return str(started.consumer_tag)

    def _send(self, batch: Sequence[Outgoing]) -> None:
        for message in batch:
            self._last_tag += 1
            # aiormq sends under one lock, first come first served: the order of these tasks is the order on the wire.
            task = self._loop.create_task(self._publish(message, self._last_tag))
            self._sending.add(task)
            task.add_done_callback(self._publish_ended)

    async def _publish(self, message: Outgoing, tag: int) -> None:
        exchange = self._exchanges.get(message.exchange)
        if exchange is None:
            exchange = self._exchanges[message.exchange] = (
                await self._channel.get_exchange(message.exchange, ensure=False)
                if message.exchange
                else self._channel.default_exchange
            )
        wire = aio_pika.Message(
            message.body,
            # pamqp writes and reads AMQP's byte arrays as bytearray only.
            headers={name: bytearray(value) if type(value) is bytes else value for name, value in message.headers},
            content_type="application/json",
            delivery_mode=2 if message.is_persistent else 1,
            message_id=message.message_id,
            timestamp=message.timestamp_s,
        )
        try:
            await exchange.publish(wire, message.routing_key, mandatory=True)
        except PublishError as returned:
            self._listener.returned(message.message_id, message.routing_key, str(loss_of(returned).reason))
            self._listener.settled(tag, False, True)
        except DeliveryError:
            self._listener.settled(tag, False, False)
        except _CLIENT_ERRORS as error:
            self._lose(loss_of(error))
        else:
            self._listener.settled(tag, False, True)
        self._tell_soon()

    def _publish_ended(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Something nobody foresaw: what was sent is unknown, so the link ends.
            self._lose(loss_of(error))

    def _ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        if not self._is_lost:
            task = self._loop.create_task(self._ack_all(tags))
            self._acking.add(task)
            task.add_done_callback(self._acking.discard)

    async def _ack_all(self, tags: Sequence[tuple[int, bool]]) -> None:
        try:
            channel = await self._channel.get_underlay_channel()
            for tag, upto in tags:
                await channel.basic_ack(tag, multiple=upto, wait=(tag, upto) == tags[-1])
        except _CLIENT_ERRORS as error:
            self._lose(loss_of(error))

    async def _on_message(self, message: Any) -> None:
        self._arrivals.append(
            Arrival(
                message.consumer_tag,
                message.delivery_tag,
                bool(message.redelivered),
                message.routing_key,
                {
                    name: bytes(value) if type(value) is bytearray else value
                    for name, value in (message.header.properties.headers or {}).items()
                },
                message.body,
            )
        )
        self._tell_soon()

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
