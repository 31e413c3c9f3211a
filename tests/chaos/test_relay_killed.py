"""Relays as real processes on real brokers: killed after the confirm, paused past the lease, without their database."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from core.messaging.ports import Broker
from core.storage.tables import MessagingTables
from servers.lifecycle import Server
from tests.contract.profiles import connect
from tests.storage.outbox_rows import event, is_empty, open_outbox, scalar, topology_of, until, write

KEYS, VERSIONS = 10, 200
Outbox = tuple[Engine, MessagingTables]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    engine, tables = open_outbox(database)
    yield engine, tables
    engine.dispose()


@pytest.fixture
def world(broker_server: Server, database: str) -> Iterator[tuple[Broker, Start]]:
    profile = {"kafka": "kafka", "rabbitmq": "rabbitmq-quorum-pika"}[broker_server.name]
    prefix = f"relay{uuid4().hex[:8]}."
    address = {"url": broker_server.url}
    broker = connect(profile, address, topology_of(prefix))
    admin = broker.admin()
    admin.declare()
    started: list[subprocess.Popen[bytes]] = []

    def start(owner: str, crash_at: str = "", batch_messages: int = 100) -> subprocess.Popen[bytes]:
        given = {
            "profile": profile,
            "address": address,
            "prefix": prefix,
            "database": database,
            "owner": owner,
            "crash_at": crash_at,
            "batch_messages": batch_messages,
        }
        command = [sys.executable, str(Path(__file__).with_name("relay_process.py")), json.dumps(given)]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield broker, start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(timeout=30)
    admin.delete()
    admin.close()


def fill(outbox: Outbox) -> None:
    for version in range(1, VERSIONS + 1):
        write(*outbox, *(event(f"o-{key}", version) for key in range(KEYS)))


def on_the_wire(broker: Broker) -> dict[str, list[int]]:
    """Key -> versions as they stand in the log, repeats included."""
    versions: dict[str, list[int]] = defaultdict(list)
    for delivery in broker.admin().read_all("orders"):
        assert delivery.envelope is not None
        assert delivery.envelope.sequence is not None
        versions[delivery.envelope.key].append(delivery.envelope.sequence)
    return versions


def assert_complete_and_ordered(broker: Broker) -> int:
    """Every version of every key, first arrivals in order; return how many were repeated."""
    wire = on_the_wire(broker)
    firsts = {key: list(dict.fromkeys(versions)) for key, versions in wire.items()}
    assert firsts == {f"o-{key}": list(range(1, VERSIONS + 1)) for key in range(KEYS)}
    return sum(len(versions) for versions in wire.values()) - KEYS * VERSIONS


def test_a_relay_killed_between_confirm_and_clear_repeats_its_batch_and_loses_nothing(
    outbox: Outbox, world: tuple[Broker, Start]
) -> None:
    broker, start = world
    fill(outbox)
    killed = start("first", crash_at="confirmed")
    assert killed.wait(timeout=60) == -signal.SIGKILL
    assert scalar(outbox[0], "SELECT count(*) FROM pending") == KEYS * VERSIONS
    start("second")
    until(lambda: is_empty(outbox[0]), timeout_s=60)
    assert assert_complete_and_ordered(broker) == 100


def test_a_relay_paused_past_its_lease_wakes_and_marks_nothing(outbox: Outbox, world: tuple[Broker, Start]) -> None:
    broker, start = world
    fill(outbox)
    paused = start("paused", batch_messages=20)
    until(lambda: scalar(outbox[0], "SELECT count(*) FROM cleared") != 0, timeout_s=60)
    os.kill(paused.pid, signal.SIGSTOP)
    start("other")
    # Two leases and more: the other relay takes everything over and empties the outbox.
    until(lambda: is_empty(outbox[0]), timeout_s=60)
    os.kill(paused.pid, signal.SIGCONT)
    shared = "SELECT count(DISTINCT owner) FROM bucket_lease WHERE leased_until > clock_timestamp()"
    until(lambda: scalar(outbox[0], shared) == 2, timeout_s=30)
    assert assert_complete_and_ordered(broker) <= 2 * 20
    # Each event was marked once: what the paused relay had in hand was not marked a second time.
    assert scalar(outbox[0], "SELECT sum(cardinality(event_ids)) FROM cleared") == KEYS * VERSIONS


def test_relays_outlive_the_kill_of_their_database(
    outbox: Outbox, world: tuple[Broker, Start], postgres_server: Server
) -> None:
    broker, start = world
    fill(outbox)
    start("one", batch_messages=20)
    start("two", batch_messages=20)
    until(lambda: scalar(outbox[0], "SELECT count(*) FROM cleared") != 0, timeout_s=60)
    postgres_server.kill()
    postgres_server.start()
    outbox[0].dispose()
    until(lambda: is_empty(outbox[0]), timeout_s=60)
    assert_complete_and_ordered(broker)
