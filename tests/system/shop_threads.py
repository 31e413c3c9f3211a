"""The whole shop but its HTTP side in threads of the test: relay, consumer groups, sweepers, on any broker."""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import Connection, text

from core.commands.catalogue import seed_catalogue
from core.commands.context import Context
from core.commands.orders import CreateOrder, cancel_order, create_order
from core.domain.orders import Line
from core.effects.gateway import Charge
from core.effects.outside_world import OutsideWorld, SimulatedOutsideWorld
from core.effects.table import GROUPS, Group
from core.inbox.handlers import GroupHandler, HandlerResult
from core.journey import NoProbe
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker
from core.queries.sagas import count_hung_sagas
from core.storage.database import wait_for_database
from core.storage.shop import ShopTables
from testbed import roles, wiring
from testbed.settings import Settings

STOCK_EACH = 1_000
DECLINED = "DECLINED"


class World(SimulatedOutsideWorld):
    """Declines the card DECLINED, leaves PENDING open, and counts the calls by transaction key."""

    def __init__(self) -> None:
        super().__init__()
        self.charges: list[str] = []
        self.cancels: list[str] = []

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        self.charges.append(idempotency_key)
        if card_type == DECLINED:
            return Charge("failed", "card declined")
        if card_type == "PENDING":
            return Charge("pending")
        return super().charge(idempotency_key, order_id, amount, card_type)

    def cancel(self, idempotency_key: str) -> None:
        self.cancels.append(idempotency_key)
        super().cancel(idempotency_key)


def waiting(group: str, wait: Callable[[], object]) -> Group:
    """The group as it is, but each call of its handler waits before its work."""

    def made(shop: ShopTables) -> GroupHandler:
        inner = GROUPS[group].handler(shop)

        def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
            wait()
            return inner(connection, envelopes)

        return handle

    return replace(GROUPS[group], handler=made)


@dataclass
class Shop:
    settings: Settings
    database: wiring.Database
    broker: Broker
    context: Context
    world: Any
    """What was handed to `shop_on`."""
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, groups: Sequence[str]) -> None:
        relay = wiring.relay(self.settings, self.database, self.broker, NoProbe())
        self._run([threading.Thread(target=relay.run, args=(self.stop,))])
        self.consume(groups)

    def consume(self, groups: Sequence[str]) -> None:
        watch = wiring.Watch(None, NoProbe())
        self._run(roles.consumers(self.settings, self.database, self.broker, groups, watch, self.stop, self.world))

    def _run(self, threads: Sequence[threading.Thread]) -> None:
        self.threads += threads
        for thread in threads:
            thread.start()

    def order(self, product: int = 1, quantity: int = 1, card_type: str = "CREDIT") -> str:
        """The id of a new order."""
        command = CreateOrder("c-1", (Line(product, quantity),), None, None, card_type)
        answer = create_order(self.context, command, self.context.new_id(), None)
        return str(orjson.loads(answer.body)["id"])

    def cancel(self, order_id: str) -> None:
        cancel_order(self.context, UUID(order_id), "c-1", self.context.new_id(), "changed my mind", "c-1")

    def hung_sagas(self) -> int:
        with self.database.engine.connect() as connection:
            return count_hung_sagas(connection, self.database.shop)

    def rows(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    def change(self, sql: str, **values: object) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(sql), values)

    def status_of(self, order_id: str) -> str:
        return str(self.rows("SELECT status FROM orders WHERE id = :id", id=order_id)[0][0])

    def saga_of(self, order_id: str) -> tuple[Any, ...]:
        """(step, status, failure), or nothing."""
        found = self.rows("SELECT step, status, failure FROM saga_state WHERE order_id = :id", id=order_id)
        return found[0] if found else ()

    def events_of(self, order_id: str, aggregate_type: str) -> list[str]:
        sql = "SELECT event_type FROM event WHERE aggregate_id = :id AND aggregate_type = :kind ORDER BY sequence"
        return [name for (name,) in self.rows(sql, id=order_id, kind=aggregate_type)]

    def stock_of(self, product: int) -> int:
        return int(self.rows("SELECT stock FROM product WHERE id = :id", id=product)[0][0])

    def wait(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        give_up_at = monotonic() + timeout_s
        while not holds():
            assert not self.stop.is_set(), "a consumer group has ended"
            assert monotonic() < give_up_at, f"sagas are {self.rows('SELECT * FROM saga_state')}"
            sleep(0.02)

    def all_ended(self) -> bool:
        """Every order has a saga, and each has come to its end."""
        return self.rows(
            "SELECT count(*) FROM orders LEFT JOIN saga_state s ON s.order_id = id WHERE s.deadline_at IS NOT NULL"
            " OR s.order_id IS NULL"
        ) == [(0,)]


def settings_for(request: pytest.FixtureRequest, broker: str, database: str, **more: Any) -> Settings:
    """Of a shop of its own on the session's broker."""
    found: dict[str, Any] = {"broker": broker, "database_url": database}
    if broker != "memory":
        url = request.getfixturevalue(f"{broker}_server").url
        found |= {{"kafka": "kafka_bootstrap_servers", "rabbitmq": "rabbitmq_url"}[broker]: url}
        found["topic_prefix"] = f"shop-{secrets.token_hex(4)}."
    return Settings(**{**found, **more})


@contextmanager
def shop_on(
    settings: Settings, groups: Sequence[str] | None = None, world: OutsideWorld | None = None
) -> Iterator[Shop]:
    """Tables, catalogue and topology made, relay and `groups` (all of them if none is named) at work."""
    database = wiring.open_database(settings, pool_connections=30)
    broker = wiring.connect_broker(settings)
    try:
        wait_for_database(database.engine, 30)
        database.create()
        seed_catalogue(database.engine, database.shop, products=10, stock_each=STOCK_EACH)
        admin = broker.admin()
        admin.declare()
        admin.close()
        sink = wiring.event_sink(settings, database, broker, wiring.open_watch(settings, "api").probe)
        shop = Shop(settings, database, broker, Context(database.engine, database.shop, sink), world or World())
        try:
            shop.start(list(wiring.groups(settings)) if groups is None else groups)
            yield shop
        finally:
            shop.stop.set()
            for thread in shop.threads:
                thread.join(30)
            sink.close()
        assert not any(thread.is_alive() for thread in shop.threads)
    finally:
        database.engine.dispose()
