"""The worked example for other people's services runs as its README says: three processes, either broker."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, create_engine, text

from servers.lifecycle import Server
from tests.waiting import until

PARCELS = 60
FOLDER = Path(__file__).parents[2] / "examples" / "outbox_inbox"

Start = Callable[..., subprocess.Popen[bytes]]


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(role: str, *arguments: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", f"examples.outbox_inbox.{role}", *arguments]))
        return started[-1]

    yield run
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)


@pytest.fixture
def service(start: Start, database: str) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start("service", database, str(port))
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(f"{url}/openapi.json"))
    return url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = create_engine(database)
    yield engine
    engine.dispose()


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def test_each_parcel_gets_one_label_although_its_consumer_is_killed(
    start: Start, service: str, engine: Engine, database: str, broker_server: Server
) -> None:
    at = (database, broker_server.name, broker_server.url)
    start("relay", *at)
    doomed = start("consumer", *at)

    def register(number: int) -> int:
        return requests.put(f"{service}/parcels/p-{number}", params={"grams": 10 * number}, timeout=20).status_code

    def labels() -> int:
        return int(rows(engine, "SELECT count(*) FROM label")[0][0])

    assert [register(number) for number in range(1, PARCELS + 1)] == [201] * PARCELS
    assert register(1) == 409
    until(lambda: labels() > 0)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait(30)
    assert register(PARCELS + 1) == 201
    start("consumer", *at)
    until(lambda: labels() >= PARCELS + 1)
    expected = sorted((f"p-{number}", 100 + number) for number in range(1, PARCELS + 2))
    assert sorted(rows(engine, "SELECT parcel_id, postage_cents FROM label")) == expected
    until(lambda: rows(engine, "SELECT count(*) FROM messaging.pending") == [(0,)])
    assert rows(engine, "SELECT count(*) FROM messaging.event") == [(PARCELS + 1,)]


def test_a_refused_parcel_leaves_neither_row_nor_event(service: str, engine: Engine) -> None:
    for grams in (5, 7):
        requests.put(f"{service}/parcels/p-1", params={"grams": grams}, timeout=20)
    assert rows(engine, "SELECT grams FROM parcel") == [(5,)]
    assert [json.loads(payload) for (payload,) in rows(engine, "SELECT payload FROM messaging.event")] == [{"grams": 5}]


@pytest.mark.parametrize("name", ["parcels", "service", "relay", "consumer"])
def test_each_file_of_the_example_is_read_in_a_minute(name: str) -> None:
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 40
