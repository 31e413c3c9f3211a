"""The order as lists show it: folded from its events in version order, never asked of the orders' owner."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from core.domain.events import (
    Event,
    InventoryConfirmed,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderPaid,
    OrderStatusChanged,
)


@dataclass(frozen=True)
class OrderView:
    order_id: str
    version: int = 0
    """Of the newest order event in it. 0: only the reservation's events were seen."""
    order_number: str = ""
    customer_id: str = ""
    total_amount: Decimal = Decimal("0.00")
    status: str = "PENDING"
    sellers: Mapping[str, str] = field(default_factory=dict)
    """Seller -> PENDING, SHIPPED or DELIVERED."""
    is_stock_confirmed: bool = False
    cancellation_reason: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


def project(view: OrderView, event: Event, version: int | None, occurred_at: datetime) -> OrderView | None:
    """The view after the event; None if it changes nothing: it is older than what the view holds, or no matter of it.

    `version`: the order's, that the event made. The reservation has versions of its own, which do not count here.
    """
    if isinstance(event, InventoryConfirmed):
        return None if view.is_stock_confirmed else replace(view, is_stock_confirmed=True, updated_at=occurred_at)
    if version is None or version <= view.version:
        return None
    next_view = replace(view, version=version, updated_at=occurred_at)
    match event:
        case OrderCreated():
            return replace(
                next_view,
                order_number=event.order_number,
                customer_id=event.customer_id,
                total_amount=event.total_amount,
                sellers=dict.fromkeys(event.seller_ids, "PENDING"),
                created_at=occurred_at,
            )
        case OrderConfirmed():
            return replace(next_view, status="CONFIRMED")
        case OrderPaid():
            return replace(next_view, status="PAID")
        case OrderCancelled():
            return replace(next_view, status="CANCELLED", cancellation_reason=event.reason)
        case OrderStatusChanged():
            sellers = {**view.sellers, event.seller_id: event.status}
            return replace(next_view, sellers=sellers, status=_status_of(view.status, sellers))
        case _:
            return None


def _status_of(status: str, sellers: Mapping[str, str]) -> str:
    """An order is where the last of its sellers is."""
    if "PENDING" in sellers.values():
        return status
    return "SHIPPED" if "SHIPPED" in sellers.values() else "DELIVERED"
