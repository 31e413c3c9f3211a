"""inventory-service on a real PostgreSQL: stock is held whole or not at all, kept, put back, and conserved."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, MetaData, text

from core.commands.catalogue import seed_catalogue
from core.commands.context import envelope_of, new_uuid7
from core.domain.events import (
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderItem,
    Raised,
    ReleaseInventory,
    ReserveInventory,
)
from core.effects.inventory_service import keep_stock
from core.inbox.handlers import GroupHandler, Ignored, Poison
from core.messaging.envelope import Envelope
from core.storage.database import create_database_engine
from core.storage.schema import create_schema
from core.storage.shop import shop_tables
from core.storage.tables import messaging_tables

ORDER: dict[str, Any] = {
    "order_number": "1001",
    "customer_id": "c-1",
    "original_total_amount": Decimal("1.00"),
    "discount_amount": Decimal("0.00"),
    "total_amount": Decimal("1.00"),
}


class Stock:
    def __init__(self, engine: Engine, handler: GroupHandler) -> None:
        self.engine = engine
        self.handler = handler
        self.published: Sequence[Envelope] = ()

    def handle(self, *envelopes: Envelope) -> list[object]:
        with self.engine.begin() as connection:
            result = self.handler(connection, envelopes)
        self.published = result.publish
        return list(result.done)

    def said(self) -> list[tuple[str, int | None]]:
        """(type, version) of what the last batch published."""
        return [(envelope.type, envelope.sequence) for envelope in self.published]

    def left(self, product: int) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT stock FROM product WHERE id = {product}")).scalar_one())

    def is_conserved(self) -> bool:
        with self.engine.connect() as connection:
            return bool(
                connection.execute(
                    text("""
                    SELECT bool_and(initial_stock - stock = coalesce(held, 0)) FROM product LEFT JOIN (
                        SELECT product_id, sum(quantity) AS held
                        FROM stock_reservation JOIN stock_reservation_item USING (order_id)
                        WHERE status IN ('HELD', 'CONFIRMED') GROUP BY product_id
                    ) h ON h.product_id = product.id""")
                ).scalar_one()
            )


@pytest.fixture
def stock(database: str) -> Iterator[Stock]:
    engine = create_database_engine(database)
    metadata = MetaData()
    tables, shop = messaging_tables(metadata), shop_tables(metadata)
    create_schema(engine, metadata, tables)
    seed_catalogue(engine, shop, products=10, stock_each=100)
    yield Stock(engine, keep_stock(shop))
    engine.dispose()


def asked(*lines: tuple[int, int]) -> Envelope:
    """ReserveInventory with (product, quantity) lines."""
    key = str(uuid4())
    items = tuple(
        OrderItem(product_id=product, seller_id="seller-1", quantity=quantity, price=Decimal("100.00"))
        for product, quantity in lines
    )
    command = ReserveInventory(order_id=key, items=items, total_amount=Decimal("1.00"))
    return envelope_of(Raised(key, 1, command), new_uuid7(), datetime.now(UTC), "c-7")


def test_a_batch_holds_what_each_order_asks_for_lines_of_one_product_together(stock: Stock) -> None:
    assert stock.handle(asked((1, 2), (2, 1)), asked((1, 3), (1, 4))) == ["stock_held", "stock_held"]
    assert (stock.left(1), stock.left(2)) == (91, 99)
    assert stock.is_conserved()


def test_an_order_that_cannot_be_filled_takes_nothing_and_later_ones_go_on(stock: Stock) -> None:
    orders = [asked((1, 60)), asked((2, 5), (1, 41)), asked((1, 40))]
    assert stock.handle(*orders) == ["stock_held", "stock_refused", "stock_held"]
    assert (stock.left(1), stock.left(2)) == (0, 100)
    assert stock.is_conserved()


def test_an_order_for_a_product_that_is_gone_is_refused(stock: Stock) -> None:
    with stock.engine.begin() as connection:
        connection.execute(text("DELETE FROM product WHERE id = 3"))
    assert stock.handle(asked((3, 1))) == ["stock_refused"]


def test_workers_that_want_the_same_products_in_other_orders_neither_deadlock_nor_oversell(stock: Stock) -> None:
    batches = [[asked((a, 3), (b, 3)) for _ in range(5)] for a, b in [(1, 2), (2, 1), (2, 3), (3, 1)] * 4]
    with ThreadPoolExecutor(8) as pool:
        done = [one for answer in pool.map(lambda batch: stock.handle(*batch), batches) for one in answer]
    assert done.count("stock_held") > 0
    assert done.count("stock_refused") > 0
    assert stock.is_conserved()
    assert min(stock.left(product) for product in (1, 2, 3)) >= 0


def test_an_event_that_cannot_be_read_is_poison_and_nothing_of_its_batch_is_written(stock: Stock) -> None:
    broken = asked((1, 1))._replace(data=b'{"orderId":1}')
    with pytest.raises(Poison, match="ReserveInventory"):
        stock.handle(asked((1, 1)), broken)
    assert stock.left(1) == 100


def follow_up(first: Envelope, event: Event, sequence: int = 2) -> Envelope:
    return envelope_of(Raised(first.key, sequence, event), new_uuid7(), datetime.now(UTC), "c-7")


def confirmed(first: Envelope, sequence: int = 2) -> Envelope:
    return follow_up(first, OrderConfirmed(**ORDER | {"order_id": first.key}), sequence)


def cancelled(first: Envelope, sequence: int = 2) -> Envelope:
    event = OrderCancelled(**ORDER | {"order_id": first.key, "reason": "changed my mind", "cancelled_by": "c-1"})
    return follow_up(first, event, sequence)


def test_a_cancelled_order_puts_its_stock_back_whether_held_or_confirmed(stock: Stock) -> None:
    one, two = asked((1, 5), (2, 1)), asked((1, 7))
    stock.handle(one, two, confirmed(two))
    assert stock.left(1) == 88
    assert stock.handle(cancelled(one), cancelled(two, 3)) == ["stock_released", "stock_released"]
    assert (stock.left(1), stock.left(2)) == (100, 100)
    assert stock.is_conserved()


def test_stock_put_back_in_a_batch_is_there_for_the_orders_after_it(stock: Stock) -> None:
    one = asked((1, 100))
    done = stock.handle(one, asked((1, 1)), cancelled(one), asked((1, 100)))
    assert done == ["stock_held", "stock_refused", "stock_released", "stock_held"]
    assert stock.left(1) == 0
    assert stock.is_conserved()


def test_nothing_is_confirmed_or_put_back_for_an_order_that_holds_nothing(stock: Stock) -> None:
    refused, put_back = asked((1, 101)), asked((1, 1))
    stock.handle(refused, put_back, cancelled(put_back))
    later = [confirmed(refused), cancelled(refused, 3), confirmed(put_back, 3), cancelled(put_back, 4)]
    assert stock.handle(*later) == [Ignored("nothing is held")] * 4
    assert stock.left(1) == 100
    assert stock.is_conserved()


def released(first: Envelope) -> Envelope:
    return follow_up(first, ReleaseInventory(order_id=first.key, reason="payment failed"))


def test_each_change_is_told_with_the_reservation_s_own_version_and_the_order_s_correlation(stock: Stock) -> None:
    one, two = asked((1, 5)), asked((1, 96))
    stock.handle(one, two, confirmed(one), released(one), released(two))
    assert stock.said() == [
        ("InventoryReserved", 1),
        ("InventoryReservationFailed", 1),
        ("InventoryConfirmed", 2),
        ("InventoryReleased", 3),
    ]
    assert {envelope.correlation_id for envelope in stock.published} == {"c-7"}
    assert stock.published[0].causation_id == one.id
    assert stock.left(1) == 100


def test_a_release_that_overtakes_its_request_refuses_the_late_request(stock: Stock) -> None:
    late = asked((1, 5))
    assert stock.handle(released(late)) == ["release_noted"]
    assert stock.said() == []
    assert stock.handle(late, released(late), late) == [
        "stock_refused",
        Ignored("nothing is held"),
        Ignored("it was refused before"),
    ]
    assert stock.said() == [("InventoryReservationFailed", 1)]
    assert stock.left(1) == 100
    assert stock.is_conserved()


def test_stock_asked_for_twice_without_an_inbox_is_taken_twice_and_shows_it(stock: Stock) -> None:
    one = asked((1, 2))
    assert stock.handle(one) + stock.handle(one) == ["stock_held", "stock_held"]
    assert stock.left(1) == 96
    assert stock.is_conserved()
