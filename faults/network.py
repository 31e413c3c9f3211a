"""A TCP proxy of ours between clients and one server, so that a network can be slow, narrow, silent or cut.

Bytes already handed to the kernel are past recall; everything else obeys the rule from the instant `apply` returns.
One thread runs the loop; every method is safe from any thread. Kafka must advertise the proxy's address.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import uvloop

CHUNK_BYTES = 256 * 1024
QUEUED_CHUNKS = 1024
"""What latency may keep in one direction of one connection, in chunks as they were read."""

T = TypeVar("T")


class Shape(NamedTuple):
    """What happens to the bytes of one direction."""

    latency_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    is_held: bool = False
    """Nothing passes; what was held passes after the heal, as a retransmission would."""
    is_lost: bool = False
    """Nothing passes, ever: the connections that lost bytes are reset at the heal."""


PASS = Shape()


@dataclass(frozen=True)
class Rule:
    """Requests go from the client to the server, answers come back."""

    requests: Shape = PASS
    answers: Shape = PASS
    resets: bool = False
    """Connections open at that instant get a TCP reset."""
    refuses: bool = False
    """New connections are reset as soon as they are made."""


HEALED = Rule()


def latency(latency_s: float) -> Rule:
    """The same delay each way: a round trip costs twice as much."""
    return Rule(Shape(latency_s=latency_s), Shape(latency_s=latency_s))


def bandwidth(bytes_per_s: float) -> Rule:
    """Each way, each connection."""
    return Rule(Shape(bandwidth_bytes_per_s=bytes_per_s), Shape(bandwidth_bytes_per_s=bytes_per_s))


def reset(refuses: bool = False) -> Rule:
    return Rule(resets=True, refuses=refuses)


def black_hole() -> Rule:
    """Silence both ways; connections are still taken, and hear nothing."""
    return Rule(Shape(is_held=True), Shape(is_held=True))


def lost_confirm() -> Rule:
    """Requests pass, answers do not, and never will."""
    return Rule(answers=Shape(is_lost=True))


class Proxy:
    def __init__(self, upstream_host: str, upstream_port: int, port: int = 0, host: str = "127.0.0.1") -> None:
        self._upstream = (upstream_host, upstream_port)
        self._host = host
        self.port = port
        """0 until `start` found a free one."""
        self._rule = HEALED
        self._links: set[_Link] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        """Listen; the server need not be up yet, a connection made before it is gets a reset."""
        loop = uvloop.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name=f"proxy to {self._upstream[1]}", daemon=True)
        self._thread.start()
        try:
            self._call(self._listen())
        except OSError:
            self._end_loop()
            raise

    def stop(self) -> None:
        """Idempotent; every connection is reset."""
        if self._loop is not None:
            self._call(self._close())
            self._end_loop()

    def apply(self, rule: Rule) -> int:
        """Let `rule` replace what held before; returns the instant of its effect in ns since 1970."""
        return self._call(self._apply(rule))

    def heal(self) -> int:
        return self.apply(HEALED)

    @property
    def connections(self) -> int:
        return len(self._links)

    def __enter__(self) -> "Proxy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise RuntimeError("the proxy is not started; call start() first")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end_loop(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self.port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        links = list(self._links)
        for link in links:
            link.reset()
        await asyncio.gather(*(link.done for link in links), return_exceptions=True)

    async def _apply(self, rule: Rule) -> int:
        self._rule = rule
        for link in list(self._links):
            if rule.resets or link.must_reset(rule):
                link.reset()
            else:
                link.obey(rule)
        return time.time_ns()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._rule.refuses:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream, limit=CHUNK_BYTES)
        except OSError:
            # The server is down: the client learns it as from the server itself, by a connection that breaks.
            _reset(writer)
            return
        link = _Link(_Pump(reader, up_writer), _Pump(up_reader, writer))
        link.obey(self._rule)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One client connection and the upstream connection made for it."""

    def __init__(self, requests: "_Pump", answers: "_Pump") -> None:
        self._requests = requests
        self._answers = answers
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def obey(self, rule: Rule) -> None:
        self._requests.obey(rule.requests)
        self._answers.obey(rule.answers)

    def must_reset(self, rule: Rule) -> bool:
        """Bytes that were lost leave a hole in the stream: nothing sensible can follow them."""
        return (self._requests.has_lost and not rule.requests.is_lost) or (
            self._answers.has_lost and not rule.answers.is_lost
        )

    def reset(self) -> None:
        _reset(self._requests.writer)
        _reset(self._answers.writer)
        self._requests.cancel()
        self._answers.cancel()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._requests.start(tasks)
                self._answers.start(tasks)
        except* OSError:
            # One side broke its connection: the other side sees the same.
            self.reset()
        finally:
            for pump in (self._requests, self._answers):
                pump.writer.close()
            self.done.set_result(None)


class _Pump:
    """One direction of one connection: read, keep for the latency, write at the bandwidth."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        self._shape = PASS
        self._open = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.has_lost = False

    def obey(self, shape: Shape) -> None:
        self._shape = shape
        if shape.is_held:
            self._open.clear()
        else:
            self._open.set()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = [tasks.create_task(self._fill()), tasks.create_task(self._drain())]

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _fill(self) -> None:
        while True:
            chunk = await self._reader.read(CHUNK_BYTES)
            await self._queue.put((time.monotonic() + self._shape.latency_s, chunk))
            if not chunk:
                return

    async def _drain(self) -> None:
        while True:
            due_at, chunk = await self._queue.get()
            if (wait_s := due_at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            await self._open.wait()
            if self._shape.is_lost:
                self.has_lost = True
                if not chunk:
                    return
            elif not chunk:
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                return
            else:
                await self._write(chunk)

    async def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            rate = self._shape.bandwidth_bytes_per_s
            # A twentieth of a second at a time, so that a narrow line is steady and a new rule is soon obeyed.
            piece = left if rate is None else left[: max(1, int(rate / 20))]
            self.writer.write(piece)
            await self.writer.drain()
            left = left[len(piece) :]
            if rate is not None:
                await asyncio.sleep(len(piece) / rate)
            if left:
                await self._open.wait()
                if self._shape.is_lost:
                    self.has_lost = True
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a broken network or a killed host would."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        # Already closed by its other end: a reset has nothing left to do.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
