"""How many MB a second pass the proxy of the network's faults while it has none, beside the same sockets without it?

One direction of one connection, over loopback, from the receiver's accept to its last byte. As in a run, the proxy is a
thread of the process that watches, and both ends are processes of their own. Rates are MB/s: 1,000,000 bytes each.
"""

import multiprocessing
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.parts.rounds import compare_rounds
from faults.network import Proxy

UNIT = "MB"
MB_BYTES = 1_000_000
NAME = "proxy-MB"
BASELINE = "the same sockets"
SEND_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0


def run(
    *, rounds: int = 5, megabytes: int = 500, send_bytes: int = SEND_BYTES, seed: int = 1, round_timeout_s: float = 60.0
) -> Iterator[dict[str, Any]]:
    """One row, as `testbed bench proxy --json` prints it, its rates in MB/s.

    `send_bytes`: handed to the sender's kernel at a time. Raises RuntimeError when not all of a round's bytes arrived,
    TimeoutError when a round does not end.
    """
    with _two_ends(round_timeout_s) as ends, Proxy(HOST, ends.port) as proxy:
        result = compare_rounds(
            lambda: ends.mb_per_s(proxy.port, megabytes, send_bytes),
            lambda: ends.mb_per_s(ends.port, megabytes, send_bytes),
            rounds,
            seed,
            name=NAME,
            baseline_name=BASELINE,
        )
    yield result.as_dict()


class _Ends(NamedTuple):
    """A process that sends to a port when it is told to, and one that tells what came at its own."""

    sender: Connection
    receiver: Connection
    port: int
    timeout_s: float

    def mb_per_s(self, port: int, megabytes: int, send_bytes: int) -> float:
        """Of one round: a connection of its own to `port`, which leads to the receiver."""
        sent_bytes = megabytes * MB_BYTES
        self.receiver.send(None)
        self.sender.send((port, sent_bytes, send_bytes))
        received_bytes, took_s = _told(self.receiver, self.timeout_s)
        if received_bytes != sent_bytes:
            raise RuntimeError(f"{received_bytes} of {sent_bytes} bytes arrived; nothing was measured")
        return sent_bytes / MB_BYTES / float(took_s)


def _told(receiver: Connection, timeout_s: float) -> Any:
    if not receiver.poll(timeout_s):
        raise TimeoutError(f"the receiving end said nothing for {timeout_s:g} s")
    return receiver.recv()


@contextmanager
def _two_ends(timeout_s: float) -> Iterator[_Ends]:
    context = multiprocessing.get_context("spawn")
    (sender, to_send), (receiver, to_receive) = context.Pipe(), context.Pipe()
    ends = [context.Process(target=_send, args=(to_send,)), context.Process(target=_receive, args=(to_receive,))]
    for end in ends:
        end.daemon = True
        end.start()
    # Theirs alone from here on: whoever of the two outlives this process reads to an end.
    to_send.close()
    to_receive.close()
    try:
        yield _Ends(sender, receiver, _told(receiver, START_TIMEOUT_S), timeout_s)
    finally:
        for end in ends:
            end.kill()
            end.join()
        sender.close()
        receiver.close()


def _send(orders: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            port, left_bytes, send_bytes = orders.recv()
        except EOFError:
            return
        piece = memoryview(bytes(send_bytes))
        # The other end tells of a connection that breaks, by what it lacks.
        with suppress(ConnectionError), socket.create_connection((HOST, port)) as connection:
            while left_bytes:
                connection.sendall(piece[:left_bytes])
                left_bytes -= min(left_bytes, send_bytes)


def _receive(orders: Connection) -> None:
    """Tells its port first, then (bytes, seconds) of a connection each time it is told to take one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    buffer = bytearray(READ_BYTES)
    with socket.create_server((HOST, 0)) as listener:
        orders.send(listener.getsockname()[1])
        while True:
            try:
                orders.recv()
            except EOFError:
                return
            connection, _ = listener.accept()
            started_at, received_bytes = perf_counter(), 0
            with connection, suppress(ConnectionError):
                while count := connection.recv_into(buffer):
                    received_bytes += count
            orders.send((received_bytes, perf_counter() - started_at))
