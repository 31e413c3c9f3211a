"""What the inbox tests share: a real database with the tables, the memory broker, and what is asked of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import uuid_utils
from sqlalchemy import Connection, Engine, MetaData, create_engine, text

from brokers.memory.broker import MemoryBroker, connect
from brokers.memory.config import MemoryConfig
from core.inbox.handlers import HandlerResult
from core.inbox.retries import RetryPolicy
from core.inbox.worker import Worker, WorkerOptions
from core.messaging.envelope import Envelope
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology
from core.storage.tables import MessagingTables, messaging_tables
from servers.lifecycle import Server
from tests.databases import fresh_database

GROUP = "counters"
TOPOLOGY = Topology(
    routes={"OrderCreated": Route("orders", "order.created"), "OrderPaid": Route("orders", "order.paid")},
    subscriptions={GROUP: frozenset({"OrderCreated", "OrderPaid"}), "others": frozenset({"OrderCreated"})},
    partitions=3,
)
QUICK = WorkerOptions(receive_timeout_s=0.05, retry=RetryPolicy(tries=3, first_delay_s=0.01, jitter=False))


@dataclass
class Bench:
    """A database with the tables, a broker, and what is asked of them in every test."""

    engine: Engine
    tables: MessagingTables
    broker: MemoryBroker

    def publish(self, *envelopes: Envelope) -> None:
        assert all(outcome.is_confirmed for outcome in self.broker.publisher().publish(envelopes, 5.0))

    def worker(self, handler: Any, options: WorkerOptions = QUICK, group: str = GROUP, **more: Any) -> Worker:
        return Worker(self.engine, self.tables, self.broker.subscriber(group), group, handler, options, **more)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def effects(self, group: str = GROUP) -> list[str]:
        """Event ids in applied order, once for each effect."""
        return [
            str(id)
            for (id,) in self.rows(f"SELECT event_id FROM effect WHERE consumer_group = '{group}' ORDER BY applied_no")
        ]

    def letters(self) -> list[tuple[str, str]]:
        """(event id, reason) of the dead letters the broker holds; a fresh reader each time."""
        subscriber = self.broker.subscriber(DEAD_LETTER_GROUP)
        found = subscriber.receive(1_000, 0.05)
        subscriber.close()
        return [(d.envelope.id if d.envelope else "", d.failure.reason) for d in found if d.failure]


@pytest.fixture(scope="module")
def inbox_database(postgres_server: Server) -> Iterator[Engine]:
    """One database a file: its tables are emptied between tests, which is ten times quicker than a new one."""
    with fresh_database(postgres_server) as url:
        engine = create_engine(url, pool_size=8)
        metadata = MetaData()
        messaging_tables(metadata)
        metadata.create_all(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def bench(inbox_database: Engine) -> Bench:
    with inbox_database.begin() as connection:
        connection.execute(text("TRUNCATE inbox, effect, failed_event RESTART IDENTITY"))
        connection.execute(text("DROP TABLE IF EXISTS next_event, stock, inbox_watermark"))
    broker = connect(MemoryConfig(), TOPOLOGY)
    broker.admin().declare()
    return Bench(inbox_database, messaging_tables(MetaData()), broker)


def order(number: int, key: str = "", type: str = "OrderCreated", sequence: int | None = 1, **more: Any) -> Envelope:
    return Envelope(
        id=str(uuid_utils.uuid7()),
        topic="orders",
        type=type,
        source="/shop/Order",
        key=key or f"order-{number}",
        sequence=sequence,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        data=str(number).encode(),
        **more,
    )


def count_it(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    return HandlerResult(["counted"] * len(envelopes))


def drain(worker: Worker, quiet_steps: int = 3) -> None:
    """Work until nothing was received for a while; a retried message is back within its 0.01 to 0.04 s."""
    quiet = 0
    while quiet < quiet_steps:
        quiet = 0 if worker.step() else quiet + 1
