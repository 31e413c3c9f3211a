"""Orders' events and publishers for the outbox's tests: literal, in memory, watched."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Engine, MetaData

from core.journey import Probe
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome
from core.messaging.ports import Publisher
from core.messaging.topology import Route, Topology
from core.outbox.relay import Relay, RelayOptions
from core.outbox.rows import add_events
from core.storage.database import create_database_engine
from core.storage.event_store import new_event_id
from core.storage.schema import create_schema
from core.storage.tables import SOURCE_PREFIX, MessagingTables, messaging_tables

QUICK = RelayOptions(batch_messages=50, poll_s=0.02, lease_s=1.0, refused_wait_s=0.01, unknown_wait_s=0.05)


def open_outbox(url: str, source_prefix: str = SOURCE_PREFIX) -> tuple[Engine, MessagingTables]:
    engine = create_database_engine(url)
    metadata = MetaData()
    tables = messaging_tables(metadata, source_prefix=source_prefix)
    create_schema(engine, metadata, tables)
    return engine, tables


def event(key: str, sequence: int | None, data: bytes = b'{"total": 1}', type: str = "OrderCreated") -> Envelope:
    return Envelope(new_event_id(), "orders", type, "/shop/order", key, sequence, datetime.now(UTC), data)


def write(engine: Engine, tables: MessagingTables, *events: Envelope) -> None:
    with engine.begin() as connection:
        add_events(connection, tables, events)


@dataclass
class Wire:
    """A publisher that keeps what it confirmed; `answer` decides the outcome of each event."""

    answer: Callable[[Envelope], Outcome] = lambda envelope: CONFIRMED
    sent: list[Envelope] = field(default_factory=list)
    delay_s: float = 0.0

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        time.sleep(self.delay_s)
        outcomes = []
        stopped: dict[str, Outcome] = {}
        for envelope in batch:
            outcome = stopped.get(envelope.key) or self.answer(envelope)
            if outcome.is_confirmed:
                self.sent.append(envelope)
            else:
                # The port: later messages of this key are not sent before it.
                stopped[envelope.key] = Outcome(outcome.status.UNKNOWN, "behind it")
            outcomes.append(outcome)
        return outcomes

    def close(self) -> None:
        return None

    def sequences(self, key: str) -> list[int | None]:
        return [envelope.sequence for envelope in self.sent if envelope.key == key]


@contextmanager
def relaying(
    engine: Engine,
    tables: MessagingTables,
    publisher: Publisher,
    options: RelayOptions = QUICK,
    probe: Probe | None = None,
) -> Iterator[None]:
    stop = threading.Event()
    relay = Relay(engine, tables, publisher, options, probe)
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the relay did not stop"


def scalar(engine: Engine, sql: str) -> object:
    with engine.connect() as connection:
        return connection.exec_driver_sql(sql).scalar()


def is_empty(engine: Engine) -> bool:
    return scalar(engine, "SELECT count(*) FROM pending") == 0


def topology_of(prefix: str, groups: Sequence[str] = ("billing",)) -> Topology:
    return Topology(
        routes={"OrderCreated": Route("orders", "order.created")},
        subscriptions=dict.fromkeys(groups, frozenset({"OrderCreated"})),
        partitions=3,
        prefix=prefix,
    )
