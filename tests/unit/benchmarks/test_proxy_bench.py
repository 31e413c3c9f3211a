"""The proxy's bench sends through the proxy, counts MB, and calls nothing a rate of which not all arrived."""

import socket
import threading

import pytest

from benchmarks.parts import proxy as bench
from faults.network import PASS, Proxy, Rule, Shape, bandwidth


class Narrow(Proxy):
    """5 MB a second."""

    def start(self) -> None:
        super().start()
        self.apply(bandwidth(5_000_000))


class Lossy(Proxy):
    def start(self) -> None:
        super().start()
        self.apply(Rule(Shape(is_lost=True), PASS))


class Short:
    """Passes the first bytes of a connection on and closes it."""

    def __init__(self, host: str, upstream_port: int) -> None:
        self._upstream = (host, upstream_port)
        self._listener = socket.create_server((host, 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> "Short":
        threading.Thread(target=self._pass_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _pass_on(self) -> None:
        connection, _ = self._listener.accept()
        with connection, socket.create_connection(self._upstream) as upstream:
            upstream.sendall(connection.recv(1_000))


def test_one_row_tells_the_proxy_beside_the_same_sockets() -> None:
    [row] = bench.run(rounds=3, megabytes=2)
    assert (row["name"], row["baseline"], row["rounds"]) == ("proxy-MB", "the same sockets", 3)
    assert 0 < row["interval"][0] <= row["ratio"] <= row["interval"][1]


def test_the_bytes_pass_the_proxy_and_rates_are_mb_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Proxy", Narrow)
    [row] = bench.run(rounds=3, megabytes=1)
    # A little more than the rule's: the clock of its pauses counts whole milliseconds.
    assert 0 < row["rate_per_s"] < 5.5
    assert row["baseline_rate_per_s"] > row["rate_per_s"]


def test_a_round_that_lacks_bytes_is_an_error_and_not_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Proxy", Short)
    with pytest.raises(RuntimeError, match=r"^\d+ of 9000000 bytes arrived; nothing was measured$"):
        list(bench.run(rounds=3, megabytes=9, round_timeout_s=10))


def test_a_round_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Proxy", Lossy)
    with pytest.raises(TimeoutError, match=r"nothing for 0\.5 s"):
        list(bench.run(rounds=3, megabytes=1, round_timeout_s=0.5))
