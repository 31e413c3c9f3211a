"""An order: what makes one valid, which states it may take, and the event each change raises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from core.domain.events import OrderCancelled, OrderConfirmed, OrderCreated, OrderItem, Raised
from core.domain.rules import ForbiddenState, InvalidRequest

MAX_LINES = 100
MAX_QUANTITY = 10_000


class OrderStatus(StrEnum):
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    PAID = "PAID"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"


class Product(NamedTuple):
    """What the catalogue says."""

    id: int
    seller_id: str
    price: Decimal


class Line(NamedTuple):
    """What a customer asks for. `price` is only compared: the catalogue sets it."""

    product_id: int
    quantity: int
    price: Decimal | None = None


@dataclass(frozen=True)
class Order:
    id: str
    order_number: str
    customer_id: str
    items: tuple[OrderItem, ...]
    original_total: Decimal
    discount: Decimal
    total_amount: Decimal
    status: OrderStatus
    version: int


def check_lines(lines: Sequence[Line]) -> None:
    """Raise InvalidRequest for what no catalogue could allow."""
    if not 1 <= len(lines) <= MAX_LINES:
        raise InvalidRequest(f"An order has 1 to {MAX_LINES} items, this one {len(lines)}.", "/items")
    for number, line in enumerate(lines):
        if not 1 <= line.quantity <= MAX_QUANTITY:
            raise InvalidRequest(
                f"A quantity is 1 to {MAX_QUANTITY}, not {line.quantity}.", f"/items/{number}/quantity"
            )


def create(
    order_id: str,
    order_number: str,
    customer_id: str,
    lines: Sequence[Line],
    catalogue: Mapping[int, Product],
    *,
    buyer_email: str | None = None,
    shipping_address: str | None = None,
    discount: Decimal = Decimal("0.00"),
) -> tuple[Order, Raised]:
    """A PENDING order at version 1 with the catalogue's prices. Raises InvalidRequest."""
    check_lines(lines)
    items = tuple(_item(number, line, catalogue) for number, line in enumerate(lines))
    original_total = sum((item.price * item.quantity for item in items), Decimal("0.00"))
    order = Order(
        id=order_id,
        order_number=order_number,
        customer_id=customer_id,
        items=items,
        original_total=original_total,
        discount=discount,
        total_amount=original_total - discount,
        status=OrderStatus.PENDING,
        version=1,
    )
    event = OrderCreated(
        order_id=order_id,
        order_number=order_number,
        customer_id=customer_id,
        buyer_email=buyer_email,
        seller_ids=tuple(sorted({item.seller_id for item in items})),
        items=items,
        original_total_amount=order.original_total,
        discount_amount=order.discount,
        total_amount=order.total_amount,
        shipping_address=shipping_address,
    )
    return order, Raised(order_id, order.version, event)


def confirm(order: Order) -> tuple[Order, Raised]:
    """PENDING becomes CONFIRMED. Raises ForbiddenState from any other state."""
    if order.status is not OrderStatus.PENDING:
        raise ForbiddenState("Order", order.id, order.status, "confirmed")
    changed = replace(order, status=OrderStatus.CONFIRMED, version=order.version + 1)
    event = OrderConfirmed(
        order_id=order.id,
        order_number=order.order_number,
        customer_id=order.customer_id,
        original_total_amount=order.original_total,
        discount_amount=order.discount,
        total_amount=order.total_amount,
    )
    return changed, Raised(order.id, changed.version, event)


def cancel(order: Order, reason: str, cancelled_by: str) -> tuple[Order, Raised | None]:
    """CANCELLED, from any state before SHIPPED; an order that is cancelled already stays as it is, without an event.

    Raises ForbiddenState from SHIPPED and DELIVERED.
    """
    if order.status is OrderStatus.CANCELLED:
        return order, None
    if order.status in (OrderStatus.SHIPPED, OrderStatus.DELIVERED):
        raise ForbiddenState("Order", order.id, order.status, "cancelled")
    changed = replace(order, status=OrderStatus.CANCELLED, version=order.version + 1)
    event = OrderCancelled(
        order_id=order.id,
        order_number=order.order_number,
        customer_id=order.customer_id,
        original_total_amount=order.original_total,
        discount_amount=order.discount,
        total_amount=order.total_amount,
        reason=reason,
        cancelled_by=cancelled_by,
    )
    return changed, Raised(order.id, changed.version, event)


def _item(number: int, line: Line, catalogue: Mapping[int, Product]) -> OrderItem:
    product = catalogue.get(line.product_id)
    if product is None:
        raise InvalidRequest(f"There is no product {line.product_id}.", f"/items/{number}/productId")
    if line.price is not None and line.price != product.price:
        raise InvalidRequest(f"Product {product.id} costs {product.price}, not {line.price}.", f"/items/{number}/price")
    return OrderItem(product_id=product.id, seller_id=product.seller_id, quantity=line.quantity, price=product.price)
