"""The order's states: which change is allowed from which, and what each raises."""

from dataclasses import replace
from decimal import Decimal

import pytest

from core.domain.events import OrderCancelled, OrderConfirmed
from core.domain.orders import Line, Order, OrderStatus, Product, cancel, confirm, create
from core.domain.rules import ForbiddenState

NEW, _ = create("o-1", "1001", "c-1", [Line(1, 2)], {1: Product(1, "seller-a", Decimal("100.00"))})


def in_state(status: OrderStatus) -> Order:
    return replace(NEW, status=status, version=7)


def test_a_pending_order_is_confirmed_as_the_next_version() -> None:
    order, raised = confirm(in_state(OrderStatus.PENDING))
    assert (order.status, order.version, raised.sequence) == (OrderStatus.CONFIRMED, 8, 8)
    assert isinstance(raised.event, OrderConfirmed)
    assert raised.event.total_amount == Decimal("200.00")


@pytest.mark.parametrize("status", [status for status in OrderStatus if status is not OrderStatus.PENDING])
def test_an_order_in_any_other_state_cannot_be_confirmed_and_the_error_names_the_state(status: OrderStatus) -> None:
    with pytest.raises(ForbiddenState, match=status):
        confirm(in_state(status))


@pytest.mark.parametrize("status", [OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PAID])
def test_an_order_that_is_not_shipped_is_cancelled_with_reason_and_name(status: OrderStatus) -> None:
    order, raised = cancel(in_state(status), "changed my mind", "c-1")
    assert (order.status, order.version) == (OrderStatus.CANCELLED, 8)
    assert raised is not None
    assert raised.sequence == 8
    assert isinstance(raised.event, OrderCancelled)
    assert (raised.event.reason, raised.event.cancelled_by) == ("changed my mind", "c-1")


@pytest.mark.parametrize("status", [OrderStatus.SHIPPED, OrderStatus.DELIVERED])
def test_an_order_on_its_way_cannot_be_cancelled(status: OrderStatus) -> None:
    with pytest.raises(ForbiddenState, match=status):
        cancel(in_state(status), "too late", "c-1")


def test_cancelling_a_cancelled_order_changes_nothing_and_raises_no_second_event() -> None:
    before = in_state(OrderStatus.CANCELLED)
    assert cancel(before, "again", "c-1") == (before, None)
