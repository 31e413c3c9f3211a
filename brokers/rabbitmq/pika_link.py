"""A link over pika's SelectConnection in a thread of its own.

pika opens, tunes, beats and closes. The frames of the one busy channel (publish, ack, deliver, return) are written
and read here: pika's own path through method objects and callback tables takes half of the time of a message.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from struct import Struct
from typing import Any

import pika
from pika import frame as pika_frames
from pika import spec
from pika.exceptions import AMQPError

from brokers.rabbitmq.codec import Outgoing, decode_table, encode_table
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import LOCKED, Loss, loss_of
from brokers.rabbitmq.links import Arrival, LinkLost, Listener

BUSY_CHANNEL = 1
_READ_BYTES = 131_072
_FRAME_END = b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
_HEAD, _TAG, _IDS = Struct(">BHI"), Struct(">Q"), Struct(">HH")
_CONTENT = Struct(">HHQH")
_ACK_OUT = Struct(">BHIHHQBB")
_ACK, _NACK, _DELIVER, _RETURN = 80, 120, 60, 50
_FLAGS = 0x8000 | 0x2000 | 0x1000 | 0x0080 | 0x0040
"""content_type, headers, delivery_mode, message_id, timestamp: what `_marshal` writes, in AMQP's order."""
_CONTENT_TYPE = b"\x10application/json"
PIKA_METHODS = (
    "_on_data_available",
    "_output_marshaled_frames",
    "_process_frame",
    "_terminate_stream",
    "_get_write_buffer_size",
    "_read_frame",
)
PIKA_ATTRIBUTES = ("_frame_buffer", "_transport")
"""Private names of pika's connection. Tested: pika 1.4 (1.4.4); `clients.check_client` refuses a pika without them."""


class _Connection(pika.SelectConnection):  # type: ignore[misc]
    """Hands the busy channel's frames to `on_frame`; every other frame goes pika's way."""

    on_frame: Callable[[int, bytes, int, int], bool] | None = None
    on_read: Callable[[], None]
    _frame_buffer: bytes

    def _on_data_available(self, data_in: bytes) -> None:
        if self.on_frame is None:
            super()._on_data_available(data_in)
            return
        buffer = self._frame_buffer + data_in if self._frame_buffer else data_in
        at, end = 0, len(buffer)
        while end - at >= 8:
            kind, channel, size = _HEAD.unpack_from(buffer, at)
            after = at + size + 8
            if after > end:
                break
            if channel == BUSY_CHANNEL and self.on_frame(kind, buffer, at + 7, size):
                self.frames_received += 1
            else:
                _, value = pika_frames.decode_frame(buffer[at:after])
                self._process_frame(value)
            at = after
        self._frame_buffer = buffer[at:]
        self.bytes_received += at
        self.on_read()


class AnyHeaders(pika.SelectConnection):  # type: ignore[misc]
    """For pika's BlockingConnection. Anybody may write a header that pika cannot read, a timestamp of the year 60,000
    for one, and it would raise from wherever the frame is met; here such a value stays the bytes it was. Of a message's
    properties it reads the headers alone."""

    _frame_buffer: bytes

    def _read_frame(self) -> tuple[int, Any]:
        buffer = self._frame_buffer
        if len(buffer) < 8 or buffer[0] != _HEADER:
            return super()._read_frame()  # type: ignore[no-any-return]
        _, channel, size = _HEAD.unpack_from(buffer)
        if len(buffer) < size + 8:
            return 0, None
        properties = spec.BasicProperties(headers=headers_in(buffer[19 : size + 7]))
        return size + 8, pika_frames.Header(channel, _TAG.unpack_from(buffer, 11)[0], properties)


class PikaLink:
    def __init__(self, config: RabbitConfig, listener: Listener) -> None:
        self._config, self._listener = config, listener
        self._parameters = pika.URLParameters(config.url)
        self._parameters.heartbeat = config.heartbeat_s
        self._parameters.connection_attempts = 1
        self._opened: Future[None] = Future()
        self._over = threading.Event()
        self._owner_ended = False
        self._is_blocked = False
        self._calls: set[Future[Any]] = set()
        self._loss: Loss | None = None
        self._content: _Content | None = None
        self._arrivals: list[Arrival] = []
        self._connection: Any = None
        self._channel: Any = None
        self._thread = threading.Thread(target=self._run, name="rabbitmq-io", daemon=True)

    # --- the owner's thread

    def open(self, confirms: bool, timeout_s: float) -> None:
        self._parameters.socket_timeout = self._parameters.stack_timeout = max(0.05, timeout_s)
        self._parameters.blocked_connection_timeout = None
        self._thread.start()
        self._wait(self._opened, timeout_s)
        if confirms:
            self._call(partial(self._channel.confirm_delivery, self._no_pika_acks), timeout_s)
        self._on_loop(self._take_over)

    def lock(self, name: str, timeout_s: float) -> bool:
        # On a channel of its own: the refusal closes it.
        channel = self._call(lambda callback: self._new_channel(callback), timeout_s)
        declare = partial(channel.queue_declare, name, durable=False, exclusive=True)
        try:
            self._call(lambda callback: declare(callback=callback), timeout_s)
        except LinkLost as lost:
            if lost.loss.code == LOCKED:
                return False
            raise
        self._on_loop(partial(_close_quietly, channel))
        return True

    def send(self, batch: Sequence[Outgoing]) -> None:
        body_bytes = self._connection.params.frame_max or 131_072
        pieces: list[bytes] = []
        for message in batch:
            _marshal(message, body_bytes - 8, pieces)
        self._on_loop(partial(self._write, b"".join(pieces), len(batch)))

    def unsent_bytes(self) -> int:
        future: Future[int] = Future()
        self._on_loop(lambda: future.set_result(self._connection._get_write_buffer_size() if self._is_up() else 0))
        return int(self._wait(future, 1.0))

    def is_blocked(self) -> bool:
        return self._is_blocked

    def consume(self, queue: str, prefetch_messages: int, arguments: Mapping[str, object], timeout_s: float) -> str:
        qos = partial(self._channel.basic_qos, prefetch_count=prefetch_messages)
        self._call(lambda callback: qos(callback=callback), timeout_s)
        start = partial(self._channel.basic_consume, queue, _unused_delivery, arguments=dict(arguments))
        return str(self._call(lambda callback: start(callback=callback), timeout_s).method.consumer_tag)

    def ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        size = 13
        pieces = [_ACK_OUT.pack(_METHOD, BUSY_CHANNEL, size, 60, _ACK, tag, upto, 0xCE) for tag, upto in tags]
        self._on_loop(partial(self._write, b"".join(pieces), len(tags)))

    def close(self, timeout_s: float) -> None:
        self._owner_ended = True
        if self._thread.is_alive() and self._opened.done() and not self._over.is_set():
            self._on_loop(self._close)
            self._over.wait(timeout_s)
        self.abort()

    def abort(self) -> None:
        self._owner_ended = True
        if self._thread.is_alive():
            self._on_loop(self._abort)
            if threading.current_thread() is not self._thread:
                self._thread.join(5.0)

    # --- between the threads

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._connection is not None:
            self._connection.ioloop.add_callback_threadsafe(call)

    def _call(self, start: Callable[[Callable[[Any], None]], Any], timeout_s: float) -> Any:
        """Run `start(callback)` on the loop and wait for what the callback is given."""
        future: Future[Any] = Future()
        self._calls.add(future)

        def begin() -> None:
            try:
                if self._loss is not None:
                    raise LinkLost(self._loss)
                start(partial(_answer, future))
            except (AMQPError, LinkLost) as error:
                future.set_exception(error if isinstance(error, LinkLost) else LinkLost(loss_of(error)))

        self._on_loop(begin)
        try:
            return self._wait(future, timeout_s)
        finally:
            self._calls.discard(future)

    def _wait(self, future: "Future[Any]", timeout_s: float) -> Any:
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            raise LinkLost(self._loss or Loss(0, f"no answer within {timeout_s:.1f} s")) from None

    def _new_channel(self, callback: Callable[[Any], None]) -> None:
        channel = self._connection.channel(on_open_callback=callback)
        channel.add_on_close_callback(lambda _, reason: self._fail_calls(loss_of(reason)))

    # --- the I/O thread

    def _run(self) -> None:
        self._connection = _Connection(
            self._parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=lambda _, error: self._end(loss_of(error)),
            on_close_callback=lambda _, error: self._end(loss_of(error)),
        )
        self._connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self._connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        if self._owner_ended:
            self._abort()
        self._connection.ioloop.start()
        self._connection.ioloop.close()
        self._over.set()

    def _on_open(self, connection: Any) -> None:
        # pika reads 4 KiB at a time: with messages of that size, every one would take two system calls.
        connection._transport._MAX_RECV_BYTES = _READ_BYTES
        connection.channel(BUSY_CHANNEL, on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda _, reason: self._lose(loss_of(reason)))
        channel.add_on_cancel_callback(lambda _: self._lose(Loss(0, "the broker cancelled a consumer: queue deleted")))
        self._opened.set_result(None)

    def _take_over(self) -> None:
        self._connection.on_read = self._tell
        self._connection.on_frame = self._on_frame

    def _set_blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked

    def _no_pika_acks(self, _: Any) -> None:
        raise AssertionError("confirms are read by _on_frame")

    def _is_up(self) -> bool:
        return self._loss is None and self._connection.is_open

    def _write(self, frames: bytes, count: int) -> None:
        if self._is_up() and frames:
            self._connection._output_marshaled_frames([frames])
            self._connection.frames_sent += count

    def _close(self) -> None:
        # pika would cancel each consumer first, and the broker would then hand the lane's next messages to another
        # member before those that are unacked here. Without a cancel they are returned first, in order.
        self._channel._consumers.clear()
        if self._connection.is_open:
            self._connection.close()

    def _abort(self) -> None:
        transport = self._connection._transport
        if transport is not None and not self._connection.is_closed:
            self._connection._terminate_stream(pika.exceptions.ConnectionClosed(0, "aborted by its owner"))
        else:
            self._connection.ioloop.stop()

    def _lose(self, loss: Loss) -> None:
        """The busy channel ended: the link with it."""
        self._remember(loss)
        if self._connection.is_open:
            self._connection.close()

    def _end(self, loss: Loss) -> None:
        self._remember(loss)
        self._over.set()
        self._connection.ioloop.stop()

    def _remember(self, loss: Loss) -> None:
        if self._loss is not None:
            return
        self._loss = loss
        if not self._opened.done():
            self._opened.set_exception(LinkLost(loss))
        self._fail_calls(loss)
        if not self._owner_ended:
            self._listener.lost(loss)

    def _fail_calls(self, loss: Loss) -> None:
        for future in list(self._calls):
            if not future.done():
                future.set_exception(LinkLost(loss))

    def _tell(self) -> None:
        if self._arrivals:
            arrivals, self._arrivals = self._arrivals, []
            self._listener.delivered(arrivals)
        self._listener.told()

    def _on_frame(self, kind: int, buffer: bytes, at: int, size: int) -> bool:
        if kind == _METHOD:
            class_id, method_id = _IDS.unpack_from(buffer, at)
            if class_id != 60:
                return False
            if method_id in (_ACK, _NACK):
                tag = _TAG.unpack_from(buffer, at + 4)[0]
                self._listener.settled(tag, bool(buffer[at + 12] & 1), method_id == _ACK)
            elif method_id == _DELIVER:
                self._content = _delivered(buffer, at + 4)
            elif method_id == _RETURN:
                self._content = _returned(buffer, at + 4)
            else:
                return False
            return True
        content = self._content
        if content is None:
            return False
        if kind == _HEADER:
            content.size = _TAG.unpack_from(buffer, at + 4)[0]
            content.properties = buffer[at + 12 : at + size]
        elif kind == _BODY:
            content.parts.append(buffer[at : at + size])
            content.got += size
        if content.got >= content.size:
            self._content = None
            self._whole(content)
        return True

    def _whole(self, content: "_Content") -> None:
        body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
        if content.consumer:
            self._arrivals.append(
                Arrival(
                    content.consumer, content.tag, content.redelivered, content.routing_key, content.properties, body
                )
            )
        else:
            properties = spec.BasicProperties()
            properties.decode(content.properties)
            self._listener.returned(properties.message_id or "", content.routing_key, content.reason)


class _Content:
    """A deliver or a return that is still arriving."""

    __slots__ = ("consumer", "got", "parts", "properties", "reason", "redelivered", "routing_key", "size", "tag")

    def __init__(self, consumer: str, tag: int, redelivered: bool, routing_key: str, reason: str) -> None:
        self.consumer, self.tag, self.redelivered = consumer, tag, redelivered
        self.routing_key, self.reason = routing_key, reason
        self.size = self.got = 0
        self.properties = b""
        self.parts: list[bytes] = []


def _delivered(buffer: bytes, at: int) -> _Content:
    tag_at = at + 1 + buffer[at]
    exchange_at = tag_at + 9
    key_at = exchange_at + 1 + buffer[exchange_at]
    return _Content(
        buffer[at + 1 : tag_at].decode(),
        _TAG.unpack_from(buffer, tag_at)[0],
        bool(buffer[tag_at + 8]),
        buffer[key_at + 1 : key_at + 1 + buffer[key_at]].decode("utf-8", "replace"),
        "",
    )


def _returned(buffer: bytes, at: int) -> _Content:
    text_at = at + 2
    exchange_at = text_at + 1 + buffer[text_at]
    key_at = exchange_at + 1 + buffer[exchange_at]
    reason = buffer[text_at + 1 : exchange_at].decode("utf-8", "replace")
    return _Content("", 0, False, buffer[key_at + 1 : key_at + 1 + buffer[key_at]].decode("utf-8", "replace"), reason)


def headers_in(properties: bytes) -> dict[str, object]:
    """The header table of a message's properties as they came."""
    flags = properties[0] << 8 | properties[1]
    if not flags & 0x2000:
        return {}
    if flags & 1:
        decoded = spec.BasicProperties()
        decoded.decode(properties)
        return dict(decoded.headers or {})
    at = 2
    for bit in (0x8000, 0x4000):
        if flags & bit:
            at += 1 + properties[at]
    return decode_table(properties, at)[0]


def _marshal(message: Outgoing, body_bytes: int, pieces: list[bytes]) -> None:
    """Method, header and body frames, mandatory."""
    exchange, key, message_id = message.exchange.encode(), message.routing_key.encode(), message.message_id.encode()
    method_bytes = 9 + len(exchange) + len(key)
    table = encode_table(message.headers)
    body = message.body
    pieces += (
        _HEAD.pack(_METHOD, BUSY_CHANNEL, method_bytes),
        b"\x00\x3c\x00\x28\x00\x00",
        bytes((len(exchange),)),
        exchange,
        bytes((len(key),)),
        key,
        b"\x01\xce",
        _HEAD.pack(_HEADER, BUSY_CHANNEL, 14 + 17 + len(table) + 1 + 1 + len(message_id) + 8),
        _CONTENT.pack(60, 0, len(body), _FLAGS),
        _CONTENT_TYPE,
        table,
        b"\x02" if message.is_persistent else b"\x01",
        bytes((len(message_id),)),
        message_id,
        _TAG.pack(message.timestamp_s),
        _FRAME_END,
    )
    for start in range(0, len(body), body_bytes):
        part = body if len(body) <= body_bytes else body[start : start + body_bytes]
        pieces += (_HEAD.pack(_BODY, BUSY_CHANNEL, len(part)), part, _FRAME_END)


def _answer(future: "Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _close_quietly(channel: Any) -> None:
    if channel.is_open:
        channel.close()


def _unused_delivery(*_: Any) -> None:
    raise AssertionError("deliveries are read by _on_frame")
