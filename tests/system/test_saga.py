"""An order's saga through the whole shop, on every broker: paid, out of stock, payment refused, crashed half-way."""

import pytest

from tests.system.shop_threads import DECLINED, STOCK_EACH, Shop, settings_for, shop_on

BROKERS = ("memory", "kafka", "rabbitmq")


@pytest.mark.row("S1.3", "S1.7", "S3.16", "S3.39", "S3.40", "S3.41", "S3.42", "S3.45", "S0.17")
@pytest.mark.parametrize("broker", BROKERS)
def test_an_order_is_paid_or_cancelled_with_its_stock_and_money_put_back(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    with shop_on(settings_for(request, broker, database)) as shop:
        happy = shop.order(product=1, quantity=2)
        short = shop.order(product=2, quantity=STOCK_EACH + 1)
        declined = shop.order(product=3, quantity=3, card_type=DECLINED)
        shop.wait(shop.all_ended)
        _paid(shop, happy)
        _out_of_stock(shop, short)
        _payment_failed(shop, declined)


def _paid(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "PAID"
    assert shop.saga_of(order_id) == ("PAYMENT_COMPLETED", "COMPLETED", None)
    assert shop.events_of(order_id, "Order") == ["OrderCreated", "OrderConfirmed", "OrderPaid"]
    assert shop.events_of(order_id, "OrderSaga") == ["ReserveInventory", "ProcessPayment", "ConfirmOrder"]
    shop.wait(lambda: shop.events_of(order_id, "StockReservation") == ["InventoryReserved", "InventoryConfirmed"])
    assert shop.events_of(order_id, "Payment") == ["PaymentCompleted"]
    assert shop.stock_of(1) == STOCK_EACH - 2
    assert shop.world.charges.count(f"pay-{order_id}") == 1
    shop.wait(lambda: shop.rows("SELECT product_id, sales FROM product_metrics") == [(1, 2)])
    correlations = shop.rows(
        "SELECT count(DISTINCT correlation_id), count(*) FILTER (WHERE causation_id IS NULL) FROM event"
        " WHERE aggregate_id = :id", id=order_id,
    )  # fmt: skip
    assert correlations == [(1, 1)]


def _out_of_stock(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "CANCELLED"
    assert shop.saga_of(order_id) == ("ORDER_CREATED", "CANCELLED", "out of stock: not enough stock of 2")
    assert shop.events_of(order_id, "OrderSaga") == ["ReserveInventory", "CancelOrder"]
    assert shop.events_of(order_id, "StockReservation") == ["InventoryReservationFailed"]
    assert shop.events_of(order_id, "Payment") == []
    assert shop.world.charges.count(f"pay-{order_id}") == 0
    assert shop.stock_of(2) == STOCK_EACH


def _payment_failed(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "CANCELLED"
    assert shop.saga_of(order_id) == ("INVENTORY_RESERVED", "CANCELLED", "payment failed: card declined")
    assert shop.events_of(order_id, "OrderSaga")[2:] == ["ReleaseInventory", "CancelOrder"]
    shop.wait(lambda: shop.stock_of(3) == STOCK_EACH)
    assert shop.events_of(order_id, "StockReservation") == ["InventoryReserved", "InventoryReleased"]
    assert shop.events_of(order_id, "Payment") == ["PaymentFailed"]
