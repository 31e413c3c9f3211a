"""The whole shop in this process on any broker: relay and consumers in threads, the API on a port, admin included."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import requests
from sqlalchemy import text

from core.api.app import create_app
from core.commands.catalogue import seed_catalogue
from core.commands.context import Context, envelope_of
from core.domain.events import LikeChanged, Raised
from core.effects.outside_world import SimulatedOutsideWorld
from core.effects.table import GROUPS
from core.journey import NoProbe
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker
from core.messaging.topology import DEAD_LETTER_GROUP
from core.outbox.rows import EventSink, add_events
from core.storage.event_store import append
from servers.lifecycle import Server
from testbed import wiring
from testbed.operations import ShopOperations
from testbed.roles import consumers
from testbed.settings import Settings, read_settings
from tests.system.api_server import served
from tests.waiting import until

BROKERS = ("memory", "kafka", "rabbitmq")
PRODUCTS = 100
ALL_GROUPS = (*GROUPS, DEAD_LETTER_GROUP)


@dataclass
class LiveShop:
    settings: Settings
    database: wiring.Database
    broker: Broker
    sink: EventSink
    url: str = ""
    _running: dict[str, tuple[list[threading.Thread], threading.Event]] = field(default_factory=dict)

    @property
    def operations(self) -> ShopOperations:
        return ShopOperations(self.settings, self.database, self.broker, self.sink, NoProbe())

    def start(self, *roles: str) -> None:
        """`relay`, or a consumer group with what sweeps behind it."""
        for role in roles:
            stop = threading.Event()
            threads = [self._relay(stop)] if role == "relay" else self._consumer(role, stop)
            self._running[role] = (threads, stop)
            for thread in threads:
                thread.start()

    def stop(self, *roles: str) -> None:
        for role in roles:
            self._running[role][1].set()
        for role in roles:
            for thread in self._running.pop(role)[0]:
                thread.join(30)
                assert not thread.is_alive(), role

    def stop_all(self) -> None:
        self.stop(*self._running)

    def _relay(self, stop: threading.Event) -> threading.Thread:
        relay = wiring.relay(self.settings, self.database, self.broker, NoProbe())
        return threading.Thread(target=relay.run, args=(stop,), name="relay")

    def _consumer(self, group: str, stop: threading.Event) -> list[threading.Thread]:
        watch, world = wiring.Watch(None, NoProbe()), SimulatedOutsideWorld()
        return consumers(self.settings, self.database, self.broker, [group], watch, stop, world)

    def call(self, method: str, path: str, *, admin: bool = False, customer: str = "c-1", **more: Any) -> Any:
        token = wiring.development_token(self.settings, customer, admin)
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **more)

    def rows(self, sql: str, **given: object) -> list[tuple[Any, ...]]:
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), given)]

    def write(self, sql: str, **given: object) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(sql), given)

    def count(self, sql: str, **given: object) -> int:
        return int(self.rows(sql, **given)[0][0])

    def await_count(self, sql: str, wanted: int, timeout_s: float = 60.0, **given: object) -> None:
        until(lambda: self.count(sql, **given) == wanted, timeout_s)

    def settle(self) -> None:
        """Wait until nothing is on its way any more."""
        until(lambda: self.operations.audit(None)["exitCode"] == 0, 120)

    def commit_likes(self, count: int, *, with_pending: bool = True) -> list[str]:
        """Likes of all products in turn; without a pending row the outbox has lost them. Returns the event ids."""
        likes = likes_of(count)
        with self.database.engine.begin() as connection:
            if with_pending:
                add_events(connection, self.database.messaging, likes)
            else:
                append(connection, self.database.messaging, likes)
        return [like.id for like in likes]


def likes_of(count: int, prefix: str = "fan") -> list[Envelope]:
    context = _IDS
    return [
        envelope_of(
            Raised(
                str(number % PRODUCTS + 1),
                None,
                LikeChanged(product_id=number % PRODUCTS + 1, customer_id=f"{prefix}-{number}", delta=1),
            ),
            context(),
            datetime.now(UTC),
            f"like-{number}",
        )
        for number in range(count)
    ]


_IDS = Context.__dataclass_fields__["new_id"].default


def settings_for(broker: str, database_url: str, request: pytest.FixtureRequest, **more: Any) -> Settings:
    address: dict[str, Any] = {}
    if broker != "memory":
        server: Server = request.getfixturevalue(f"{broker}_server")
        address = {{"kafka": "kafka_bootstrap_servers", "rabbitmq": "rabbitmq_url"}[broker]: server.url}
    prefix = f"t{uuid4().hex[:8]}."
    return read_settings(broker=broker, database_url=database_url, topic_prefix=prefix, **address, **more)


@contextmanager
def live_shop(settings: Settings) -> Iterator[LiveShop]:
    """Tables, catalogue and topology are there, the API answers; no relay and no consumer runs yet."""
    database, broker = wiring.open_database(settings, pool_connections=20), wiring.connect_broker(settings)
    database.create()
    seed_catalogue(database.engine, database.shop, PRODUCTS)
    admin = broker.admin()
    admin.declare()
    sink = wiring.event_sink(settings, database, broker, NoProbe())
    shop = LiveShop(settings, database, broker, sink)
    try:
        with served(create_app(wiring.api_deps(settings, database, sink, NoProbe(), shop.operations))) as shop.url:
            yield shop
    finally:
        shop.stop_all()
        sink.close()
        admin.delete()
        admin.close()
        database.engine.dispose()


def ids_in(findings: Sequence[dict[str, Any]]) -> set[str]:
    return {finding["id"] for finding in findings}
