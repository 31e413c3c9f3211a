"""A real consumer process, SIGKILLed at each step on each real broker: the core repeats nothing and loses nothing,
and each wrong consumer shows its anomaly (crash points P5 to P9)."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import uuid_utils
from sqlalchemy import Engine, MetaData, create_engine, text

from core.messaging.envelope import Envelope
from core.messaging.ports import Admin, Broker
from core.storage.tables import messaging_tables
from servers.lifecycle import Server
from tests.chaos.worker_process import GROUP
from tests.contract.profiles import TOPOLOGY, connect, own

PROFILE = {"kafka": "kafka", "rabbitmq": "rabbitmq-quorum-pika"}
MESSAGES, KEYS = 1_000, 50


@dataclass
class Chaos:
    broker: Broker
    admin: Admin
    engine: Engine
    told: dict[str, Any]
    started: list[subprocess.Popen[bytes]]

    def publish(self, events: list[Envelope]) -> None:
        publisher = self.broker.publisher()
        assert all(outcome.is_confirmed for outcome in publisher.publish(events, 30.0))
        publisher.close()

    def start(self, seams: dict[str, str], crash_at: str = "") -> subprocess.Popen[bytes]:
        told = json.dumps(self.told | {"seams": seams, "crash_at": crash_at})
        process = subprocess.Popen([sys.executable, "-m", "tests.chaos.worker_process", told])
        self.started.append(process)
        return process

    def until_drained(self, process: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: self.admin.lag(GROUP)["orders"].lag_messages == 0, 60.0)
        process.terminate()
        assert process.wait(30) == 0

    def effects(self) -> list[str]:
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT event_id FROM effect ORDER BY applied_no"))
            return [str(id) for id in rows.scalars()]


def wait_until(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.1)


@pytest.fixture
def chaos(broker_server: Server, database: str) -> Iterator[Chaos]:
    topology = own(TOPOLOGY)
    profile = PROFILE[broker_server.name]
    address = {"url": broker_server.url}
    if broker_server.name == "rabbitmq":
        login = urlsplit(broker_server.url).netloc.rpartition("@")[0] + "@"
        management = urlsplit(getattr(broker_server, "management_url", ""))
        address["management_url"] = urlunsplit(management._replace(netloc=login + management.netloc))
    broker = connect(profile, address, topology)
    admin = broker.admin()
    admin.declare()
    engine = create_engine(database)
    metadata = MetaData()
    messaging_tables(metadata)
    metadata.create_all(engine)
    told = {"profile": profile, "address": address, "prefix": topology.prefix, "database": database}
    world = Chaos(broker, admin, engine, told, [])
    yield world
    for process in world.started:
        if process.poll() is None:
            process.kill()
        process.wait()
    engine.dispose()
    admin.delete()
    admin.close()


def events_in_order() -> list[Envelope]:
    return [
        Envelope(
            id=str(uuid_utils.uuid7()),
            topic="orders",
            type="OrderCreated" if n < KEYS else "OrderPaid",
            source="/shop/Order",
            key=f"order-{n % KEYS}",
            sequence=n // KEYS + 1,
            occurred_at=datetime.now(UTC),
            data=b"{}",
        )
        for n in range(MESSAGES)
    ]


@pytest.mark.parametrize("step", ["delivered", "claimed", "effected", "applied", "acked"])
def test_the_core_killed_at_any_step_applies_each_event_once_and_in_order(chaos: Chaos, step: str) -> None:
    events = events_in_order()
    chaos.publish(events)
    assert chaos.start({}, crash_at=step).wait(60) == -9
    chaos.until_drained(chaos.start({}))
    applied = chaos.effects()
    assert sorted(applied) == sorted(event.id for event in events)
    key_of = {event.id: event.key for event in events}
    for key in {event.key for event in events}:
        assert [id for id in applied if key_of[id] == key] == [event.id for event in events if event.key == key]


@pytest.mark.parametrize(
    ("seams", "step", "lost", "doubled"),
    [
        ({"inbox": "check_then_act"}, "effected", (0, 0), (1, 1)),  # P5
        ({"inbox": "record_first"}, "claimed", (1, 1), (0, 0)),  # P6
        ({"inbox": "off"}, "applied", (0, 0), (1, 100)),  # P7
        ({"ack": "before", "inbox": "off"}, "acked", (1, 100), (0, 0)),  # P8
        ({"inbox": "off"}, "effected", (0, 0), (0, 0)),  # P9: killed in mid-batch, before its commit
    ],
    ids=["P5-check_then_act", "P6-record_first", "P7-off", "P8-ack_before", "P9-off"],
)
def test_a_wrong_consumer_killed_at_its_crash_point_shows_its_anomaly(
    chaos: Chaos, seams: dict[str, str], step: str, lost: tuple[int, int], doubled: tuple[int, int]
) -> None:
    events = events_in_order()
    chaos.publish(events)
    assert chaos.start(seams, crash_at=step).wait(60) == -9
    chaos.until_drained(chaos.start(seams))
    counts = Counter(chaos.effects())
    assert lost[0] <= len({event.id for event in events} - counts.keys()) <= lost[1]
    assert doubled[0] <= sum(times - 1 for times in counts.values()) <= doubled[1]


def test_one_poison_message_becomes_a_letter_and_the_rest_is_applied_in_order(chaos: Chaos) -> None:
    events = events_in_order()
    events[333] = events[333]._replace(data=b'"poison"')
    chaos.publish(events)
    chaos.until_drained(chaos.start({}))
    applied = chaos.effects()
    assert sorted(applied) == sorted(event.id for n, event in enumerate(events) if n != 333)
    behind = [event.id for event in events if event.key == events[333].key and event is not events[333]]
    assert [id for id in applied if id in behind] == behind
    letters = [d for d in chaos.admin.read_all("orders.DLQ")] if chaos.broker.capabilities.replay else []
    assert all(letter.envelope and letter.envelope.id == events[333].id for letter in letters)
