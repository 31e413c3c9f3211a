"""The locustfile as it is run: real Locust processes against a server that answers as late as it is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from servers.process import free_ports

ROOT = Path(__file__).parents[3]


class Answering(ThreadingHTTPServer):
    """Answers every request with 201 after `wait_s`; keeps what was asked."""

    daemon_threads = True
    request_queue_size = 1_000

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.wait_s = 0.0
        self.asked: list[tuple[str, str, str | None, bytes]] = []
        self.host = f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self) -> Counter[str]:
        return Counter(path.rpartition("/products/")[1] or path for _, path, _, _ in list(self.asked))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answering

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/metrics":
            self.send_error(404)
            return
        self.server.asked.append((self.command, self.path, self.headers["Idempotency-Key"], body))
        time.sleep(self.server.wait_s)
        self.send_response(201)
        self.send_header("Location", f"{self.path}/{uuid4()}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass


STARTED: list["subprocess.Popen[bytes]"] = []


@pytest.fixture
def server() -> Iterator[Answering]:
    running = Answering()
    thread = threading.Thread(target=running.serve_forever, args=(0.05,))
    thread.start()
    yield running
    while STARTED:
        # A test that failed left it running.
        STARTED[-1].kill()
        STARTED.pop().wait()
    running.shutdown()
    running.server_close()
    thread.join()


def locust(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "locustfile.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HISTORY_DIR": str(folder / "history")}
    with (folder / f"{len(list(folder.glob('*.log')))}.log").open("wb") as log:
        STARTED.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))
    return STARTED[-1]


def stats_of(folder: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads((folder / "stats.json").read_text())
    return lines


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in (folder / "history").glob("*") for line in path.read_text().splitlines()]


def until(holds: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up_at
        assert process.poll() is None
        time.sleep(0.02)


LOAD = ("--json-file", "stats", "--arrivals", "even", "--rate-per-user", "40")
HEADLESS = ("--headless", *LOAD)
SOURCES = ("OrderSource", "CatalogueSource", "TicketSource")


def test_every_source_keeps_its_schedule_though_the_server_is_slow_and_records_what_it_could_not_send(
    server: Answering, tmp_path: Path
) -> None:
    server.wait_s = 0.5
    words = ("-u", "3", "-r", "3", "--equal-weights", "--max-in-flight", "4", "--host", server.host)
    process = locust(tmp_path, *HEADLESS, *words, *SOURCES)
    until(lambda: len(server.paths()) == 3 and min(server.paths().values()) >= 16, process)
    process.terminate()
    assert process.wait(60) == 1
    lines = history_of(tmp_path)
    sent_ns = [ns for line in lines if line["step"] == "requested" for ns in line["intended_ns"]]
    skipped_ns = [ns for line in lines if line["step"] == "skipped" for ns in line["intended_ns"]]
    # Closed loop, a source would have sent 2 a second. 40 a second are due of each: 4 are open at most, for half a
    # second, so 8 a second are sent, and 32 are not.
    due = len(server.asked) + len(skipped_ns)
    assert due > 0.6 * 3 * 40 * (max(skipped_ns) - min(sent_ns)) / 1e9
    assert len(skipped_ns) > 0.6 * due
    assert not set(sent_ns) & set(skipped_ns)
    # Views have no key, and are not counted when sent either: a share of both would be none of the schedule.
    counted = sum(line["count"] for line in lines if line["step"] == "skipped")
    assert 0.5 * len(skipped_ns) < counted < 0.8 * len(skipped_ns)
    stats = stats_of(tmp_path)
    assert sum(line["num_requests"] for line in stats if line["name"].startswith("not sent")) == len(skipped_ns)
    assert set(server.paths()) == {"/api/v1/orders", "/api/v1/tickets", "/products/"}
    assert min(line["min_response_time"] for line in stats if line["name"].startswith("POST /api/v1/orders")) >= 500
    answered = [outcome for line in lines if line["step"] == "answered" for outcome in line["outcomes"]]
    assert set(answered) == {"acknowledged"}
    keys = [key for _, _, key, _ in server.asked if key]
    assert len(keys) == len(set(keys))
    # Written before it is sent: what was open at the end may stand in the history alone.
    assert 0 <= len(sent_ns) - len(keys) <= 8


def test_what_a_stalled_driver_sends_late_counts_from_the_time_it_was_meant_for(
    server: Answering, tmp_path: Path
) -> None:
    words = ("-u", "1", "-r", "1", "--host", server.host)
    process = locust(tmp_path, *HEADLESS, *words, "TicketSource")
    until(lambda: len(server.asked) > 10, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    until(lambda: len(server.asked) > 70, process)
    process.terminate()
    assert process.wait(60) == 0
    (counts,) = stats_of(tmp_path)
    assert counts["max_response_time"] > 900
    late = sum(count for ms, count in counts["response_times"].items() if float(ms) > 500)
    assert late >= 15


def test_two_workers_send_different_orders_and_their_figures_add_up_on_the_masters_page(
    server: Answering, tmp_path: Path
) -> None:
    ports = [str(port) for port in free_ports(2)]
    workers = [locust(tmp_path, "--worker", "--master-port", ports[0]) for _ in range(2)]
    words = ("-u", "2", "-r", "2", "--seed", "7", "--host", server.host)
    page = ("--autostart", "--web-host", "127.0.0.1", "--web-port", ports[1])
    bound = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", ports[0], "--expect-workers", "2")
    master = locust(tmp_path, *LOAD, *words, *bound, *page, "OrderSource")

    url = f"http://127.0.0.1:{ports[1]}"

    def acknowledged() -> int:
        told = requests.get(f"{url}/messages/figures", timeout=20).json()
        (count,) = [figure["value"] for figure in told["figures"] if figure["key"] == "acknowledged"]
        return int(count)

    try:
        until(lambda: len(server.asked) > 80, master)
        requests.post(f"{url}/stop", timeout=20).raise_for_status()
        until(lambda: acknowledged() == len(server.asked), master)
    finally:
        # It ends its workers, too.
        master.terminate()
    assert master.wait(60) == 0
    assert [worker.wait(60) for worker in workers] == [0, 0]
    (counts,) = stats_of(tmp_path)
    assert counts["num_requests"] == len(server.asked)
    sent = [line["ids"] for line in history_of(tmp_path) if line["step"] == "requested"]
    assert len(sent) == len({key for (key,) in sent}) == len(server.asked)
    assert sum("requested" in path.read_text() for path in (tmp_path / "history").glob("*")) == 2
    # Had both workers the same seed, each order would come twice, within the spread of 50 products and 3 quantities.
    bodies = [body for _, _, _, body in server.asked]
    assert len(set(bodies)) > 0.6 * len(bodies)
