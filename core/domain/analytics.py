"""What is counted of an event, and when an order is out of the ordinary."""

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from core.domain.events import Event, OrderCreated, OrderPaid, PaymentCancelled, PaymentCompleted

NOTHING = Decimal("0.00")


class Seen(NamedTuple):
    """Orders so far, within the window that counts."""

    orders: int = 0
    amount: Decimal = NOTHING

    @property
    def mean(self) -> Decimal:
        return self.amount / self.orders if self.orders else NOTHING


class Anomaly(NamedTuple):
    order_id: str
    amount: Decimal
    mean: Decimal


def amount_of(event: Event) -> Decimal:
    """The money an event speaks of, for the sums; zero where it speaks of none."""
    match event:
        case OrderCreated() | OrderPaid():
            return event.total_amount
        case PaymentCompleted() | PaymentCancelled():
            return event.amount
        case _:
            return NOTHING


def anomalies(orders: Iterable[OrderCreated], seen: Seen, multiple: Decimal, least_orders: int) -> list[Anomaly]:
    """Those above `multiple` times the mean of what was seen before them, once `least_orders` were seen."""
    found = []
    for order in orders:
        if seen.orders >= least_orders and order.total_amount > multiple * seen.mean:
            found.append(Anomaly(order.order_id, order.total_amount, round(seen.mean, 2)))
        seen = Seen(seen.orders + 1, seen.amount + order.total_amount)
    return found
