"""What makes a valid order, and what it raises."""

from decimal import Decimal

import pytest

from core.domain.events import OrderCreated
from core.domain.orders import MAX_LINES, MAX_QUANTITY, Line, OrderStatus, Product, create
from core.domain.rules import InvalidRequest

CATALOGUE = {
    1: Product(1, "seller-a", Decimal("100.00")),
    2: Product(2, "seller-b", Decimal("0.10")),
}


def test_the_total_is_the_sum_of_price_times_quantity_to_the_cent() -> None:
    order, _ = create("o-1", "1001", "c-1", [Line(1, 2), Line(2, 3)], CATALOGUE)
    assert order.total_amount == Decimal("200.30")
    assert str(order.total_amount) == "200.30"


@pytest.mark.row("S3.9")
def test_a_new_order_is_pending_at_version_1_and_raises_order_created_of_that_version() -> None:
    order, raised = create("o-1", "1001", "c-1", [Line(1, 2)], CATALOGUE, buyer_email="c@example.org")
    assert (order.status, order.version) == (OrderStatus.PENDING, 1)
    assert (raised.key, raised.sequence) == ("o-1", 1)
    assert isinstance(raised.event, OrderCreated)
    assert raised.event.buyer_email == "c@example.org"


@pytest.mark.row("S0.5")
def test_an_order_from_two_sellers_names_both_once() -> None:
    _, raised = create("o-1", "1001", "c-1", [Line(2, 1), Line(1, 1), Line(1, 5)], CATALOGUE)
    assert isinstance(raised.event, OrderCreated)
    assert raised.event.seller_ids == ("seller-a", "seller-b")


def test_a_price_that_equals_the_catalogue_s_is_accepted() -> None:
    order, _ = create("o-1", "1001", "c-1", [Line(1, 1, Decimal("100"))], CATALOGUE)
    assert order.items[0].price == Decimal("100.00")


@pytest.mark.parametrize(
    ("lines", "pointer"),
    [
        ([], "/items"),
        ([Line(1, 1)] * (MAX_LINES + 1), "/items"),
        ([Line(1, 1), Line(1, 0)], "/items/1/quantity"),
        ([Line(1, -1)], "/items/0/quantity"),
        ([Line(1, MAX_QUANTITY + 1)], "/items/0/quantity"),
        ([Line(9, 1)], "/items/0/productId"),
        ([Line(1, 1, Decimal("99.99"))], "/items/0/price"),
    ],
)
def test_an_order_that_no_catalogue_allows_is_refused_at_the_value_that_is_wrong(
    lines: list[Line], pointer: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        create("o-1", "1001", "c-1", lines, CATALOGUE)
    assert refusal.value.pointer == pointer
