"""The order's states: which change is allowed from which, and what each raises."""

from dataclasses import replace
from decimal import Decimal

import pytest

from core.domain.events import OrderCancelled, OrderConfirmed, OrderPaid, OrderStatusChanged, ProductSold
from core.domain.inventory import ReservationStatus
from core.domain.orders import Line, Order, OrderStatus, Product, cancel, change_status, confirm, create, pay
from core.domain.rules import ForbiddenState, UnknownThing

NEW, _ = create("o-1", "1001", "c-1", [Line(1, 2)], {1: Product(1, "seller-a", Decimal("100.00"))})


def in_state(status: OrderStatus) -> Order:
    return replace(NEW, status=status, version=7)


@pytest.mark.row("S3.10")
def test_a_pending_order_is_confirmed_as_the_next_version() -> None:
    order, raised = confirm(in_state(OrderStatus.PENDING))
    assert (order.status, order.version, raised.key, raised.sequence) == (OrderStatus.CONFIRMED, 8, "o-1", 8)
    assert isinstance(raised.event, OrderConfirmed)
    assert raised.event.total_amount == Decimal("200.00")


@pytest.mark.parametrize("status", [status for status in OrderStatus if status is not OrderStatus.PENDING])
@pytest.mark.row("S3.10")
def test_an_order_in_any_other_state_cannot_be_confirmed_and_the_error_names_the_state(status: OrderStatus) -> None:
    with pytest.raises(ForbiddenState, match=status):
        confirm(in_state(status))


@pytest.mark.parametrize("status", [OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PAID])
def test_an_order_that_is_not_shipped_is_cancelled_with_reason_and_name(status: OrderStatus) -> None:
    order, raised = cancel(in_state(status), "changed my mind", "c-1")
    assert (order.status, order.version) == (OrderStatus.CANCELLED, 8)
    assert raised is not None
    assert (raised.key, raised.sequence) == ("o-1", 8)
    assert isinstance(raised.event, OrderCancelled)
    assert (raised.event.reason, raised.event.cancelled_by) == ("changed my mind", "c-1")


@pytest.mark.parametrize("status", [OrderStatus.SHIPPED, OrderStatus.DELIVERED])
@pytest.mark.row("S3.11")
def test_an_order_on_its_way_cannot_be_cancelled(status: OrderStatus) -> None:
    with pytest.raises(ForbiddenState, match=status):
        cancel(in_state(status), "too late", "c-1")


@pytest.mark.row("S3.11")
def test_cancelling_a_cancelled_order_changes_nothing_and_raises_no_second_event() -> None:
    before = in_state(OrderStatus.CANCELLED)
    assert cancel(before, "again", "c-1") == (before, None)


@pytest.mark.parametrize("reservation", [*ReservationStatus, None])
def test_an_order_whose_stock_was_refused_or_put_back_cannot_be_confirmed(
    reservation: ReservationStatus | None,
) -> None:
    if reservation in (ReservationStatus.FAILED, ReservationStatus.RELEASED):
        with pytest.raises(ForbiddenState, match=reservation):
            confirm(in_state(OrderStatus.PENDING), reservation)
    else:
        assert confirm(in_state(OrderStatus.PENDING), reservation)[0].status is OrderStatus.CONFIRMED


@pytest.mark.row("S3.12", "S3.13", "S1.29")
@pytest.mark.parametrize("status", OrderStatus)
def test_only_a_confirmed_order_is_paid_and_each_of_its_lines_sold(status: OrderStatus) -> None:
    if status is not OrderStatus.CONFIRMED:
        with pytest.raises(ForbiddenState, match=status):
            pay(in_state(status), "pay-o-1", "CARD")
        return
    order, raised = pay(in_state(status), "pay-o-1", "CARD")
    assert (order.status, order.version) == (OrderStatus.PAID, 8)
    paid, sold = raised
    assert (paid.key, paid.sequence) == ("o-1", 8)
    assert paid.event == OrderPaid(
        order_id="o-1",
        customer_id="c-1",
        payment_id="pay-o-1",
        payment_method="CARD",
        total_amount=Decimal("200.00"),
    )
    assert (sold.key, sold.sequence) == ("1", None)
    assert sold.event == ProductSold(product_id=1, order_id="o-1", quantity=2, amount=Decimal("200.00"))


CATALOGUE = {number: Product(number, f"seller-{number}", Decimal("1.00")) for number in (1, 2)}
OF_TWO, _ = create("o-2", "1002", "c-1", [Line(1, 1), Line(2, 1)], CATALOGUE)
SHIPPED, DELIVERED = OrderStatus.SHIPPED, OrderStatus.DELIVERED


@pytest.mark.row("S0.9", "S3.13")
def test_an_order_is_where_the_slowest_of_its_sellers_is() -> None:
    order = replace(OF_TWO, status=OrderStatus.PAID)
    seen = []
    for seller, status in (
        ("seller-1", SHIPPED),
        ("seller-1", DELIVERED),
        ("seller-2", SHIPPED),
        ("seller-2", DELIVERED),
    ):
        order, raised = change_status(order, seller, status)
        assert isinstance(raised.event, OrderStatusChanged)
        assert (raised.event.seller_id, raised.event.status) == (seller, status)
        assert (raised.key, raised.sequence) == ("o-2", order.version)
        seen.append(order.status)
    assert seen == [OrderStatus.PAID, OrderStatus.PAID, SHIPPED, DELIVERED]


@pytest.mark.parametrize("status", OrderStatus)
@pytest.mark.parametrize("word", OrderStatus)
def test_a_seller_ships_a_paid_order_first_and_says_nothing_else(status: OrderStatus, word: OrderStatus) -> None:
    order = in_state(status)
    if (status, word) in ((OrderStatus.PAID, SHIPPED), (SHIPPED, SHIPPED)):
        assert change_status(order, "seller-a", word)[0].sellers == {"seller-a": SHIPPED}
    else:
        with pytest.raises(ForbiddenState):
            change_status(order, "seller-a", word)


def test_a_seller_that_has_no_part_in_the_order_says_nothing_of_it() -> None:
    with pytest.raises(UnknownThing, match="seller-b"):
        change_status(in_state(OrderStatus.PAID), "seller-b", SHIPPED)


def test_an_order_that_one_seller_has_shipped_cannot_be_cancelled() -> None:
    order, _ = change_status(replace(OF_TWO, status=OrderStatus.PAID), "seller-1", SHIPPED)
    with pytest.raises(ForbiddenState, match="partly SHIPPED"):
        cancel(order, "too late", "c-1")
