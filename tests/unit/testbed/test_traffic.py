"""The kernel's own count of what a process sent and received, connection by connection."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from testbed.traffic import Traffic

ECHO = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
"""


@pytest.fixture
def echo() -> Iterator[tuple[int, int]]:
    """Process id and port of a server that sends back what it gets."""
    process = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.kill()
    process.communicate()


def exchange(port: int, size: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"x" * size)
    left = size
    while left:
        left -= len(connection.recv(65536))
    return connection


def soon(traffic: Traffic, pid: int, at_least: int) -> int:
    """What is acknowledged by the other end is told a moment later."""
    deadline = time.monotonic() + 10
    while True:
        seen = (traffic.look({"server": [pid]}) or {}).get("server", -1)
        if seen >= at_least or time.monotonic() > deadline:
            return seen


def test_bytes_of_both_directions_count_and_stay_after_the_connection_has_ended(echo: tuple[int, int]) -> None:
    pid, port = echo
    traffic = Traffic()
    assert traffic.look({"server": [pid]}) == {"server": 0}
    with exchange(port, 50_000):
        # One more: the kernel counts the sequence number of the handshake among the acknowledged.
        assert 100_000 <= soon(traffic, pid, 100_000) <= 100_001
    with exchange(port, 10_000):
        assert 120_000 <= soon(traffic, pid, 120_000) <= 120_002


def test_bytes_of_other_processes_are_not_counted(echo: tuple[int, int]) -> None:
    pid, port = echo
    traffic = Traffic()
    with exchange(port, 20_000):
        assert soon(traffic, pid, 40_000) >= 40_000
        assert traffic.look({"nobody": [], "gone": [2**22]}) == {"nobody": 0, "gone": 0}
        mine = Traffic().look({"me": [os.getpid()]})
        assert mine is not None
        assert mine["me"] >= 40_000
