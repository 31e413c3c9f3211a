"""The API as a real server on a real PostgreSQL, for the tests of its routes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import requests
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine, MetaData, text

from core.api.app import Deps, create_app
from core.api.tokens import TokenSettings, mint
from core.commands.catalogue import seed_catalogue
from core.commands.context import Context
from core.outbox.rows import OutboxSink
from core.storage.database import create_database_engine
from core.storage.schema import create_schema
from core.storage.shop import ShopTables, shop_tables
from core.storage.tables import MessagingTables, messaging_tables
from tests.waiting import until

TOKENS = TokenSettings("a secret of at least 32 characters!")
ORDER = {"items": [{"productId": 1, "quantity": 2, "price": 100.00}]}


@dataclass
class Api:
    engine: Engine
    tables: MessagingTables
    shop: ShopTables
    url: str = ""

    def app(self) -> FastAPI:
        return create_app(Deps(Context(self.engine, self.shop, OutboxSink(self.tables)), TOKENS))

    def call(
        self,
        method: str,
        path: str,
        customer: str = "c-1",
        headers: dict[str, str] | None = None,
        scopes: tuple[str, ...] = (),
        **more: Any,
    ) -> requests.Response:
        token = mint(TOKENS, customer, scopes=scopes, email=f"{customer}@example.org")
        all_headers = {"Authorization": f"Bearer {token}", **(headers or {})}
        return requests.request(method, self.url + path, headers=all_headers, timeout=20, **more)

    def post(self, body: object = ORDER, key: str | None = None, customer: str = "c-1") -> requests.Response:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.call("POST", "/api/v1/orders", customer, headers, json=body)

    def count(self, table: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())

    def written(self) -> tuple[int, ...]:
        return tuple(self.count(table) for table in ("orders", "order_items", "event", "pending", "request"))


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL of `app` on a server of its own, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def api_on(database: str) -> Iterator[Api]:
    engine = create_database_engine(database)
    metadata = MetaData()
    tables, shop = messaging_tables(metadata), shop_tables(metadata)
    create_schema(engine, metadata, tables)
    seed_catalogue(engine, shop, products=10, stock_each=100)
    api = Api(engine, tables, shop)
    try:
        with served(api.app()) as api.url:
            yield api
    finally:
        engine.dispose()


def problem_of(response: requests.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    return body
