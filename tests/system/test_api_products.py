"""Products over HTTP, and their metrics by events: what is counted, once each."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import text

from core.commands.context import envelope_of, new_uuid7
from core.domain.events import LikeChanged, ProductSold, ProductViewed, Raised
from core.effects.product_metrics import count_facts
from core.messaging.envelope import Envelope
from tests.system.api_server import Api, api_on, problem_of


@pytest.fixture
def api(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        yield running


def events(api: Api) -> list[tuple[str, str, int | None]]:
    with api.engine.connect() as connection:
        rows = connection.execute(text("SELECT event_type, aggregate_id, sequence FROM event ORDER BY id"))
        return [tuple(row) for row in rows]


def fact(event: LikeChanged | ProductViewed | ProductSold) -> Envelope:
    return envelope_of(Raised(str(event.product_id), None, event), new_uuid7(), datetime.now(UTC), None)


def like(product_id: int, delta: int = 1) -> Envelope:
    return fact(LikeChanged(product_id=product_id, customer_id="c-1", delta=delta))


def view(product_id: int) -> Envelope:
    return fact(ProductViewed(product_id=product_id, customer_id="c-1"))


def metrics(api: Api, product_id: int) -> tuple[int, int]:
    body = api.call("GET", f"/api/v1/products/{product_id}/metrics").json()
    return body["likes"], body["views"]


def test_a_like_is_a_fact_once_a_customer_and_so_is_taking_it_back(api: Api) -> None:
    path = "/api/v1/products/3/likes"
    codes = [api.call(method, path).status_code for method in ("DELETE", "POST", "POST", "DELETE", "DELETE")]
    assert codes == [204] * 5
    assert api.call("POST", path, customer="c-2").status_code == 204
    assert events(api) == [("LikeChanged", "3", None)] * 3


def test_a_look_at_a_product_is_a_view(api: Api) -> None:
    body = api.call("GET", "/api/products/1").json()
    assert (body["id"], body["price"]) == (1, 100.00)
    assert events(api) == [("ProductViewed", "1", None)]


@pytest.mark.parametrize("name", ["11", "0", "-1", "x", "9" * 19, "9" * 30, "\u00b2"])
def test_a_product_that_does_not_exist_is_404_and_makes_no_event(api: Api, name: str) -> None:
    for method, path in [("GET", ""), ("POST", "/likes"), ("DELETE", "/likes"), ("GET", "/metrics")]:
        problem_of(api.call(method, f"/api/v1/products/{name}{path}"), 404)
    assert events(api) == []


def test_metrics_are_the_sums_of_the_facts_and_zero_before_any(api: Api) -> None:
    handle = count_facts(api.shop)
    assert metrics(api, 2) == (0, 0)
    with api.engine.begin() as connection:
        done = handle(connection, [view(2), like(1), like(2), view(2), like(2, -1), like(2)]).done
    assert done == ["view_counted", "likes_changed", "likes_changed", "view_counted", "likes_changed", "likes_changed"]
    with api.engine.begin() as connection:
        handle(connection, [like(2)])
    assert (metrics(api, 1), metrics(api, 2)) == ((1, 0), (2, 2))


@pytest.mark.row("S1.29", "S1.30")
def test_what_was_sold_is_counted_in_pieces(api: Api) -> None:
    sold = [
        ProductSold(product_id=product, order_id="o-1", quantity=quantity, amount=Decimal("1.00"))
        for product, quantity in ((1, 2), (1, 3), (2, 4))
    ]
    with api.engine.begin() as connection:
        done = count_facts(api.shop)(connection, [*map(fact, sold), like(1)]).done
    assert done == ["sale_counted"] * 3 + ["likes_changed"]
    body = api.call("GET", "/api/v1/products/1/metrics").json()
    assert body == {"productId": 1, "likes": 1, "views": 0, "sales": 5}


def test_two_processes_counting_the_same_products_lose_nothing_and_do_not_deadlock(api: Api) -> None:
    handle = count_facts(api.shop)

    def count(turn: int) -> None:
        batch = [like(product) for product in (range(1, 11) if turn % 2 else range(10, 0, -1))]
        with api.engine.begin() as connection:
            handle(connection, batch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(64)))
    assert [metrics(api, product)[0] for product in range(1, 11)] == [64] * 10
