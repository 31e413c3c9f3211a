"""The proxy does to bytes what its rule says, from the instant it says, and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from faults.network import Proxy, bandwidth, black_hole, latency, lost_confirm, reset
from tests.waiting import until


class Upstream:
    """Echoes what comes, and remembers it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heard = b""
        self.broken = 0
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1 << 18):
                self.heard += data if len(data) < 1000 else b""
                connection.sendall(data)
        except OSError:
            self.broken += 1
        connection.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", upstream.port) as started:
        yield started


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        assert echo(connection, b"hello") == b"hello"
        yield connection


def echo(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return read(connection, len(data))


def read(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (chunk := connection.recv(count - len(received))):
        received += chunk
    return received


def hears_nothing(connection: socket.socket, for_s: float = 0.2) -> bool:
    connection.settimeout(for_s)
    try:
        return connection.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        connection.settimeout(5)


def is_reset(port: int) -> bool:
    """Whether a new connection is broken before or while it waits for a byte."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(1) == b"never"
    except ConnectionResetError:
        return True


def test_bytes_pass_unchanged_both_ways_on_several_connections(proxy: Proxy, client: socket.socket) -> None:
    payload = bytes(range(256)) * 8192
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as other:
        for connection in (client, other):
            sender = threading.Thread(target=connection.sendall, args=(payload,))
            sender.start()
            assert read(connection, len(payload)) == payload
            sender.join()
        assert proxy.connections == 2


def seconds_of_an_echo(client: socket.socket) -> float:
    started = time.monotonic()
    echo(client, b"fast")
    return time.monotonic() - started


def test_latency_is_paid_each_way_and_does_not_narrow_the_line(proxy: Proxy, client: socket.socket) -> None:
    proxy.apply(latency(0.1))
    started = time.monotonic()
    for _ in range(20):
        client.sendall(b"x" * 100)
        time.sleep(0.002)
    assert len(read(client, 2000)) == 2000
    waited_s = time.monotonic() - started
    assert 0.2 <= waited_s < 3.0  # One after the other they would take 4 s.
    proxy.heal()
    assert min(seconds_of_an_echo(client) for _ in range(5)) < 0.1


def test_bandwidth_is_what_the_rule_says(proxy: Proxy, client: socket.socket) -> None:
    proxy.apply(bandwidth(200_000))
    started = time.monotonic()
    assert len(echo(client, b"x" * 100_000)) == 100_000
    assert 0.4 <= time.monotonic() - started < 10.0


def test_a_reset_breaks_what_is_open_and_lets_new_connections_in(
    proxy: Proxy, client: socket.socket, upstream: Upstream
) -> None:
    proxy.apply(reset())
    with pytest.raises(ConnectionResetError):
        echo(client, b"gone")
    until(lambda: upstream.broken == 1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as fresh:
        assert echo(fresh, b"in") == b"in"


def test_a_refusing_reset_keeps_new_connections_out_until_the_heal(proxy: Proxy, client: socket.socket) -> None:
    proxy.apply(reset(refuses=True))
    assert is_reset(proxy.port)
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as fresh:
        assert echo(fresh, b"in") == b"in"


def test_a_black_hole_holds_both_ways_and_lets_go_at_the_heal(
    proxy: Proxy, client: socket.socket, upstream: Upstream
) -> None:
    proxy.apply(black_hole())
    client.sendall(b"held")
    assert hears_nothing(client)
    assert upstream.heard == b"hello"
    proxy.heal()
    assert read(client, 4) == b"held"
    assert upstream.heard == b"helloheld"


def test_a_lost_confirm_lets_requests_through_and_answers_never_come(
    proxy: Proxy, client: socket.socket, upstream: Upstream
) -> None:
    proxy.apply(lost_confirm())
    client.sendall(b"kept")
    until(lambda: upstream.heard == b"hellokept")
    assert hears_nothing(client)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_connection_that_lost_nothing_outlives_a_lost_confirm(proxy: Proxy, client: socket.socket) -> None:
    proxy.apply(lost_confirm())
    proxy.heal()
    assert echo(client, b"still") == b"still"


def test_the_end_of_the_clients_stream_reaches_the_server_and_its_last_words_come_back(client: socket.socket) -> None:
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    assert read(client, 100) == b"bye"


def test_a_server_that_is_down_breaks_the_connection_and_one_that_came_back_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Proxy("127.0.0.1", port) as proxy:
        assert is_reset(proxy.port)
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
        ):
            server.settimeout(5)
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"up")
                assert read(client, 2) == b"up"


def test_the_instant_of_effect_lies_within_the_call_from_any_thread(proxy: Proxy) -> None:
    instants: list[tuple[int, int, int]] = []

    def cut() -> None:
        before_ns = time.time_ns()
        instants.append((before_ns, proxy.apply(black_hole()), time.time_ns()))

    threads = [threading.Thread(target=cut) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(instants) == 4
    assert all(before <= at <= after for before, at, after in instants)


def test_a_stopped_proxy_starts_again_on_its_port(upstream: Upstream) -> None:
    proxy = Proxy("127.0.0.1", upstream.port)
    proxy.start()
    port = proxy.port
    proxy.stop()
    proxy.stop()
    with pytest.raises(RuntimeError, match="not started"):
        proxy.heal()
    proxy.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        assert echo(client, b"again") == b"again"
    proxy.stop()
