"""What the tests of killed consumers share: a broker, a database, consumer processes, and what they applied.

When all was handed over is not asked of the broker, which tells late what a process held unacked: after the crash one
last message a key is published, and when a fresh process has it in its inbox, all before it in its key was handed over.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import uuid_utils
from sqlalchemy import Engine, MetaData, create_engine, text

from core.messaging.envelope import Envelope
from core.messaging.ports import Admin, Broker
from core.storage.tables import messaging_tables
from servers.lifecycle import Server
from testbed.services import management_url_of
from tests.chaos.worker_process import BATCH_MESSAGES
from tests.contract.profiles import TOPOLOGY, connect, own
from tests.waiting import until

PROFILE = {"kafka": "kafka", "rabbitmq": "rabbitmq-quorum-pika"}
MESSAGES, KEYS = 200, 20
assert BATCH_MESSAGES < MESSAGES


@dataclass
class Chaos:
    broker: Broker
    admin: Admin
    engine: Engine
    told: dict[str, Any]
    set_session: Callable[[float], None]
    """After how many seconds of silence a member that joins now is believed dead; a broker may know sooner."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def publish(self, events: Sequence[Envelope]) -> None:
        publisher = self.broker.publisher()
        assert all(outcome.is_confirmed for outcome in publisher.publish(events, 30.0))
        publisher.close()

    def start(self, seams: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
        told = json.dumps(self.told | {"seams": seams, "crash_at": "", "published_messages": MESSAGES} | more)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if more.get("is_called") else {}
        process = subprocess.Popen([sys.executable, "-m", "tests.chaos.worker_process", told], **pipes)
        self.started.append(process)
        return process

    def kill_at(self, step: str, seams: dict[str, str], times: int = 1) -> None:
        """A process that dies when it reaches `step` for the `times`-th time."""
        self.set_session(3.0)
        assert self.start(seams, crash_at=step, crash_after=times).wait(60) == -signal.SIGKILL
        self.set_session(10.0)

    def drain(self, seams: dict[str, str], **more: Any) -> list[str]:
        """A fresh process takes all there is; the effects, in applied order, without those of the last messages."""
        last_events = [order(number) for number in range(MESSAGES, MESSAGES + KEYS)]
        last = {event.id for event in last_events}
        self.publish(last_events)
        process = self.start(seams, **more)
        until(lambda: last.issubset(self.ids("SELECT event_id FROM inbox")), 60.0)
        process.terminate()
        assert process.wait(30) == 0
        return [id for id in self.ids("SELECT event_id FROM effect ORDER BY applied_no") if id not in last]

    def ids(self, sql: str) -> list[str]:
        with self.engine.connect() as connection:
            return [str(id) for id in connection.execute(text(sql)).scalars()]


@pytest.fixture
def chaos(broker_server: Server, database: str) -> Iterator[Chaos]:
    topology = own(TOPOLOGY)
    profile = PROFILE[broker_server.name]
    address = {"url": broker_server.url}
    if broker_server.name == "rabbitmq":
        address["management_url"] = management_url_of(broker_server)
    # RabbitMQ sees a killed member's connection close; Kafka waits for its session to end, as `declare` gave it.
    session = {"session_timeout_s": 10.0} if profile == "kafka" else {}
    broker = connect(profile, address, topology, **session)
    admin = broker.admin()
    admin.declare()

    def set_session(session_s: float) -> None:
        if session:
            other = connect(profile, address, topology, session_timeout_s=session_s).admin()
            other.declare()
            other.close()

    engine = create_engine(database)
    metadata = MetaData()
    messaging_tables(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE SEQUENCE refused"))
    told = {"profile": profile, "address": address, "prefix": topology.prefix, "database": database}
    world = Chaos(broker, admin, engine, told, set_session)
    yield world
    for process in world.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    engine.dispose()
    admin.delete()
    admin.close()


def order(number: int, data: bytes = b"{}") -> Envelope:
    """The `number`-th event of all: keys take turns."""
    return Envelope(
        id=str(uuid_utils.uuid7()),
        topic="orders",
        type="OrderCreated" if number < KEYS else "OrderPaid",
        source="/shop/Order",
        key=f"order-{number % KEYS}",
        sequence=number // KEYS + 1,
        occurred_at=datetime.now(UTC),
        data=data,
    )


def by_key(ids: Sequence[str], events: Sequence[Envelope]) -> dict[str, list[str]]:
    key_of = {event.id: event.key for event in events}
    found: dict[str, list[str]] = {}
    for id in ids:
        found.setdefault(key_of[id], []).append(id)
    return found
