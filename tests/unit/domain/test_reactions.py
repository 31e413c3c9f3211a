"""What an event means to those who react to it: mails, notifications, records, anomalies, views. Pure, no database."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from core.domain.analytics import Anomaly, Seen, anomalies
from core.domain.events import (
    InventoryConfirmed,
    LikeChanged,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderItem,
    OrderPaid,
    OrderStatusChanged,
    TicketApplied,
)
from core.domain.mails import mail_for
from core.domain.notifications import notification_for
from core.domain.order_views import OrderView, project
from core.domain.platform_records import platform_record
from core.domain.points import points_for

AT = datetime(2026, 1, 1, tzinfo=UTC)
NAMED: dict[str, Any] = {"order_id": "o-1", "order_number": "1001", "customer_id": "c-1"}
MONEY: dict[str, Any] = {
    "original_total_amount": Decimal("210.00"),
    "discount_amount": Decimal("10.00"),
    "total_amount": Decimal("200.00"),
}
CREATED = OrderCreated(
    **NAMED,
    **MONEY,
    buyer_email="c-1@example.org",
    seller_ids=("s-1", "s-2"),
    items=(OrderItem(product_id=1, seller_id="s-1", quantity=2, price=Decimal("105.00")),),
    shipping_address=None,
)
CONFIRMED = OrderConfirmed(**NAMED, **MONEY)
CANCELLED = OrderCancelled(**NAMED, **MONEY, reason="out of stock", cancelled_by="order-saga")
PAID = OrderPaid(
    order_id="o-1", customer_id="c-1", payment_id="p-1", payment_method="CARD", total_amount=Decimal("200.00")
)
TICKET = TicketApplied(
    ticket_id="t-1", customer_id="c-1", phone_hash="ab", phone_masked="***5678", show="Music Bank", applied_at=AT
)
LIKED = LikeChanged(product_id=1, customer_id="c-1", delta=1)


def moved(seller: str, status: str) -> OrderStatusChanged:
    return OrderStatusChanged(**NAMED, seller_id=seller, status=status)


def test_a_mail_is_named_by_order_type_and_seller() -> None:
    events = [CREATED, CONFIRMED, CANCELLED, moved("s-1", "SHIPPED"), moved("s-2", "SHIPPED"), TICKET]
    assert [mail.key for event in events if (mail := mail_for(event))] == [
        "o-1:ORDER_CONFIRMATION",
        "o-1:ORDER_CONFIRMED",
        "o-1:ORDER_CANCELLED",
        "o-1:ORDER_SHIPPED:s-1",
        "o-1:ORDER_SHIPPED:s-2",
        "t-1:TICKET_APPLIED",
    ]
    assert mail_for(LIKED) is None


@pytest.mark.row("S2.25")
def test_a_created_order_is_one_notification_whose_message_holds_number_and_amount() -> None:
    told = notification_for(CREATED)
    assert told is not None
    assert (told.type, told.customer_id, told.channels) == ("ORDER_CREATED", "c-1", ("PUSH",))
    assert told.message == "Order 1001 was created: 200.00"


def test_created_paid_and_cancelled_are_notified_and_a_confirmed_order_by_sms_too() -> None:
    told = [notification_for(event) for event in (CREATED, PAID, CANCELLED, CONFIRMED)]
    assert [t.type for t in told if t] == ["ORDER_CREATED", "ORDER_PAID", "ORDER_CANCELLED", "ORDER_CONFIRMED"]
    assert [t.channels for t in told if t] == [("PUSH",), ("PUSH",), ("PUSH",), ("PUSH", "SMS")]
    assert notification_for(LIKED) is None


@pytest.mark.parametrize(("event", "status"), [(CONFIRMED, "CONFIRMED"), (CANCELLED, "CANCELLED")])
def test_the_platform_is_told_all_nine_fields(event: OrderConfirmed | OrderCancelled, status: str) -> None:
    assert platform_record(event, AT) == {
        "kind": f"ORDER_{status}",
        "status": status,
        "time": AT,
        "orderId": "o-1",
        "orderNumber": "1001",
        "userId": "c-1",
        "originalTotalAmount": Decimal("210.00"),
        "discountAmount": Decimal("10.00"),
        "finalTotalAmount": Decimal("200.00"),
    }


def test_of_a_ticket_the_platform_is_told_hash_and_mask() -> None:
    record = platform_record(TICKET, AT)
    assert record is not None
    assert (record["phoneHash"], record["phoneMasked"], record["kind"]) == ("ab", "***5678", "TICKET_APPLIED")
    assert platform_record(LIKED, AT) is None


def over(order_id: str, amount: str) -> OrderCreated:
    return OrderCreated(
        **NAMED | {"order_id": order_id},
        **MONEY | {"total_amount": Decimal(amount)},
        buyer_email=None,
        seller_ids=(),
        items=(),
        shipping_address=None,
    )


def test_an_order_above_the_multiple_of_the_mean_is_flagged_once_enough_were_seen() -> None:
    ten = Decimal(10)
    assert anomalies([over("a", "1001.00")], Seen(4, Decimal("400.00")), ten, 5) == []
    # The fifth order counts for the sixth; exactly ten times the mean is not above it.
    batch = [over("a", "100.00"), over("b", "1000.00"), over("c", "9999.00")]
    assert anomalies(batch, Seen(4, Decimal("400.00")), ten, 5) == [Anomaly("c", Decimal("9999.00"), Decimal("250.00"))]


def test_points_are_whole_and_a_small_amount_earns_none() -> None:
    assert [points_for(Decimal(amount)) for amount in ("9.99", "10.00", "209.99")] == [0, 1, 20]


LIFE = [CREATED, CONFIRMED, PAID, moved("s-1", "SHIPPED"), moved("s-2", "SHIPPED"), moved("s-1", "DELIVERED")]


@pytest.mark.row("S3.33")
def test_every_state_is_projected_and_an_order_is_where_the_last_of_its_sellers_is() -> None:
    view, seen = OrderView("o-1"), []
    for version, event in enumerate([*LIFE, moved("s-2", "DELIVERED")], start=1):
        after = project(view, event, version, AT)
        assert after is not None
        view = after
        seen.append(view.status)
    assert seen == ["PENDING", "CONFIRMED", "PAID", "PAID", "SHIPPED", "SHIPPED", "DELIVERED"]
    assert (view.total_amount, view.customer_id, view.version) == (Decimal("200.00"), "c-1", 7)
    cancelled = project(OrderView("o-1", version=1), CANCELLED, 2, AT)
    assert cancelled is not None
    assert (cancelled.status, cancelled.cancellation_reason) == ("CANCELLED", "out of stock")


@pytest.mark.row("S3.34")
def test_whatever_the_order_of_arrival_an_older_event_never_overwrites_a_newer() -> None:
    for order in permutations(range(4)):
        view = OrderView("o-1")
        for place in order:
            view = project(view, LIFE[place], place + 1, AT) or view
        assert view.version == 4
        if order == (0, 1, 2, 3):
            assert view.status == "PAID"
    assert project(OrderView("o-1", version=3, status="PAID"), CONFIRMED, 2, AT) is None


def test_the_reservation_counts_on_its_own_whatever_version_the_order_has() -> None:
    view = project(OrderView("o-1", version=5), InventoryConfirmed(order_id="o-1"), 2, AT)
    assert view is not None
    assert (view.version, view.is_stock_confirmed) == (5, True)
    assert project(view, InventoryConfirmed(order_id="o-1"), 2, AT) is None
