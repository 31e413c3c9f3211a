"""A broker, a database and the relays of one test: what is written, started, and read back from the wire."""

import json
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine

from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome, unknown
from core.messaging.ports import Broker, Delivery, Publisher
from core.messaging.topology import Topology
from core.outbox.decisions import is_outage
from core.outbox.relay import RelayOptions
from core.storage.tables import MessagingTables
from servers.lifecycle import Server
from tests.contract.profiles import connect
from tests.storage.outbox_rows import event, open_outbox, relaying, scalar, topology_of, write
from tests.waiting import delete_all

KEYS = [f"o-{number}" for number in range(10)]
PROFILE = {"kafka": "kafka", "rabbitmq": "rabbitmq-quorum-pika"}
IN_PROCESS = RelayOptions(
    batch_messages=20, poll_s=0.02, lease_s=5.0, publish_timeout_s=2.0, refused_wait_s=0.01, unknown_wait_s=0.05
)


@dataclass
class RelayWorld:
    server: Server
    database: str
    engine: Engine
    tables: MessagingTables
    broker: Broker
    prefix: str
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def connect(self, topology: Topology) -> Broker:
        return connect(PROFILE[self.server.name], {"url": self.server.url}, topology)

    def start(
        self, owner: str, crash_at: str = "", batch_messages: int = 100, lease_s: float = 1.0
    ) -> subprocess.Popen[bytes]:
        """A relay as a process of its own."""
        given = {
            "profile": PROFILE[self.server.name],
            "address": {"url": self.server.url},
            "prefix": self.prefix,
            "database": self.database,
            "owner": owner,
            "crash_at": crash_at,
            "batch_messages": batch_messages,
            "lease_s": lease_s,
        }
        command = [sys.executable, str(Path(__file__).with_name("relay_process.py")), json.dumps(given)]
        self.started.append(subprocess.Popen(command))
        return self.started[-1]

    @contextmanager
    def relaying(
        self, wrap: Callable[[Publisher], Publisher] = lambda publisher: publisher, broker: Broker | None = None
    ) -> Iterator[None]:
        """A relay in this process; `wrap` stands between it and the real publisher."""
        publisher = (broker or self.broker).publisher()
        try:
            with relaying(self.engine, self.tables, wrap(publisher), IN_PROCESS):
                yield
        finally:
            publisher.close()

    def write(self, versions: range, keys: Sequence[str] = KEYS) -> None:
        for version in versions:
            write(self.engine, self.tables, *(event(key, version) for key in keys))

    def scalar(self, sql: str) -> object:
        return scalar(self.engine, sql)

    def is_drained(self) -> bool:
        return self.scalar("SELECT count(*) FROM pending") == 0

    def wire(self) -> dict[str, list[tuple[int, str]]]:
        """Key -> (version, event id) as they stand in the log, repeats included."""
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for envelope in map(_envelope, self.broker.admin().read_all("orders")):
            assert envelope.sequence is not None
            found[envelope.key].append((envelope.sequence, envelope.id))
        return found

    def repeats_of_the_complete_wire(self, versions: int, keys: Sequence[str] = KEYS) -> int:
        """Assert every version of every key, first arrivals in order, repeats told by their id; count the repeats."""
        wire = self.wire()
        firsts = {key: list(dict.fromkeys(found)) for key, found in wire.items()}
        assert {key: [version for version, _ in found] for key, found in firsts.items()} == {
            key: list(range(1, versions + 1)) for key in keys
        }
        return sum(map(len, wire.values())) - len(keys) * versions

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(timeout=30)
        delete_all(self.broker.admin())
        self.engine.dispose()


def open_world(server: Server, database: str, groups: Sequence[str] = ("billing",)) -> RelayWorld:
    prefix = f"relay{uuid4().hex[:8]}."
    world = RelayWorld(server, database, *open_outbox(database), broker=None, prefix=prefix)  # type: ignore[arg-type]
    world.broker = world.connect(topology_of(prefix, groups))
    admin = world.broker.admin()
    admin.declare()
    admin.close()
    return world


def _envelope(delivery: Delivery) -> Envelope:
    assert delivery.envelope is not None, delivery.error
    return delivery.envelope


@dataclass
class Watched:
    """A real publisher; `before` runs ahead of each batch, with its number from 1."""

    inner: Publisher
    before: Callable[[int], None] = lambda number: None
    batches: int = 0
    outages: int = 0
    """Batches of which nothing was confirmed or refused."""

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        self.batches += 1
        self.before(self.batches)
        outcomes = self.inner.publish(batch, timeout_s)
        self.outages += is_outage(outcomes)
        return outcomes

    def close(self) -> None:
        self.inner.close()


@dataclass
class LostAnswers:
    """A real publisher whose answers for `key` are lost while `is_losing`: the broker has the messages (P4)."""

    inner: Publisher
    key: str
    is_losing: bool = True
    lost: int = 0

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        outcomes = self.inner.publish(batch, timeout_s)
        if not self.is_losing:
            return outcomes
        self.lost += sum(envelope.key == self.key for envelope in batch)
        return [
            unknown("answer lost") if envelope.key == self.key else outcome
            for envelope, outcome in zip(batch, outcomes, strict=True)
        ]

    def close(self) -> None:
        self.inner.close()
