"""The whole transition table of a reservation: state x request, what it becomes, what it tells, what stock moves."""

from decimal import Decimal

import pytest

from core.domain.events import OrderItem, Raised, ReserveInventory
from core.domain.inventory import Reservation, ReservationStatus, Stock

ITEM = OrderItem(product_id=1, seller_id="s-1", quantity=3, price=Decimal("1.00"))
ASKED = ReserveInventory(order_id="o-1", items=(ITEM,), total_amount=Decimal("3.00"))
HELD, CONFIRMED, RELEASED, FAILED = ReservationStatus
BEFORE = {
    "none": None,
    "held": Reservation(HELD, 1, {1: 3}),
    "confirmed": Reservation(CONFIRMED, 2, {1: 3}),
    "released": Reservation(RELEASED, 2, {1: 3}, "r"),
    "withdrawn": Reservation(RELEASED, 0, {}, "r"),
    "failed": Reservation(FAILED, 1, {}, "none"),
}
TABLE: dict[tuple[str, str], tuple[ReservationStatus | None, int, str | None, int]] = {
    ("none", "reserve"): (HELD, 1, "InventoryReserved", -3),
    ("none", "confirm"): (None, 0, None, 0),
    ("none", "release"): (RELEASED, 0, None, 0),
    # That stock is taken once is the inbox's promise: without one it is taken again, and seen.
    ("held", "reserve"): (HELD, 2, "InventoryReserved", -3),
    ("held", "confirm"): (CONFIRMED, 2, "InventoryConfirmed", 0),
    ("held", "release"): (RELEASED, 2, "InventoryReleased", 3),
    ("confirmed", "reserve"): (HELD, 3, "InventoryReserved", -3),
    ("confirmed", "confirm"): (CONFIRMED, 2, None, 0),
    ("confirmed", "release"): (RELEASED, 3, "InventoryReleased", 3),
    ("released", "reserve"): (FAILED, 3, "InventoryReservationFailed", 0),
    ("released", "confirm"): (RELEASED, 2, None, 0),
    ("released", "release"): (RELEASED, 2, None, 0),
    ("withdrawn", "reserve"): (FAILED, 1, "InventoryReservationFailed", 0),
    ("withdrawn", "confirm"): (RELEASED, 0, None, 0),
    ("withdrawn", "release"): (RELEASED, 0, None, 0),
    ("failed", "reserve"): (FAILED, 1, None, 0),
    ("failed", "confirm"): (FAILED, 1, None, 0),
    ("failed", "release"): (FAILED, 1, None, 0),
}


def ask(stock: Stock, request: str) -> Raised | None:
    match request:
        case "reserve":
            return stock.reserve(ASKED)
        case "confirm":
            return stock.confirm("o-1")
        case _:
            return stock.release("o-1", "too late")


@pytest.mark.parametrize(("before", "request_"), TABLE)
def test_a_reservation_changes_only_as_its_state_allows(before: str, request_: str) -> None:
    held = BEFORE[before]
    stock = Stock({1: 10}, {"o-1": held} if held else {})
    raised = ask(stock, request_)
    status, version, event, moved = TABLE[before, request_]
    after = stock.reservations.get("o-1")
    assert (after.status if after else None, after.version if after else 0) == (status, version)
    assert (type(raised.event).__name__ if raised else None) == event
    assert raised is None or (raised.key, raised.sequence) == ("o-1", version)
    assert stock.delta[1] == moved
    assert ("o-1" in stock.touched) == (after != held)


def test_an_order_that_cannot_be_filled_names_the_products_it_is_short_of() -> None:
    stock = Stock({1: 2}, {})
    raised = stock.reserve(ASKED)
    assert raised is not None
    assert raised.event.short_items == (1,)  # type: ignore[attr-defined]
    assert stock.reservations["o-1"] == Reservation(FAILED, 1, {}, "not enough stock of 1")
