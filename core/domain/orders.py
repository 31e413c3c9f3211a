"""An order: what makes one valid, which states it may take, and the event each change raises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from core.domain.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderItem,
    OrderPaid,
    OrderStatusChanged,
    ProductSold,
    Raised,
)
from core.domain.inventory import ReservationStatus
from core.domain.rules import ForbiddenState, InvalidRequest, UnknownThing

MAX_LINES = 100
MAX_QUANTITY = 10_000


class OrderStatus(StrEnum):
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    PAID = "PAID"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"


BY_SELLER = (OrderStatus.SHIPPED, OrderStatus.DELIVERED)
"""What a seller says of its items, in this order; the order is there when all its sellers are."""


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
    sellers: Mapping[str, OrderStatus] = field(default_factory=dict)
    """Seller -> SHIPPED or DELIVERED, for those that have said so."""


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
    card_type: str = "CREDIT",
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
        card_type=card_type,
    )
    return order, Raised(order_id, order.version, event)


def confirm(order: Order, reservation: ReservationStatus | None = None) -> tuple[Order, Raised]:
    """PENDING becomes CONFIRMED. Raises ForbiddenState from any other state, and where its stock was refused."""
    if order.status is not OrderStatus.PENDING:
        raise ForbiddenState("Order", order.id, order.status, "confirmed")
    if reservation in (ReservationStatus.FAILED, ReservationStatus.RELEASED):
        raise ForbiddenState("The stock of order", order.id, reservation, "confirmed")
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


def pay(order: Order, payment_id: str, payment_method: str) -> tuple[Order, list[Raised]]:
    """CONFIRMED becomes PAID, and each line is sold. Raises ForbiddenState from any other state."""
    if order.status is not OrderStatus.CONFIRMED:
        raise ForbiddenState("Order", order.id, order.status, "paid")
    changed = replace(order, status=OrderStatus.PAID, version=order.version + 1)
    event = OrderPaid(
        order_id=order.id,
        customer_id=order.customer_id,
        payment_id=payment_id,
        payment_method=payment_method,
        total_amount=order.total_amount,
    )
    return changed, [Raised(order.id, changed.version, event), *(_sold(order.id, item) for item in order.items)]


def change_status(order: Order, seller_id: str, status: OrderStatus) -> tuple[Order, Raised]:
    """One seller has shipped or delivered its items of a PAID order. Raises UnknownThing and ForbiddenState."""
    sellers = {item.seller_id for item in order.items}
    if seller_id not in sellers:
        raise UnknownThing(f"seller {seller_id} in order", order.id)
    before = order.sellers.get(seller_id, OrderStatus.PAID)
    expected = OrderStatus.PAID if status is OrderStatus.SHIPPED else OrderStatus.SHIPPED
    if status not in BY_SELLER or order.status not in (OrderStatus.PAID, OrderStatus.SHIPPED) or before != expected:
        state = before if order.status in (OrderStatus.PAID, OrderStatus.SHIPPED) else order.status
        raise ForbiddenState("Order", order.id, state, status)
    said = {**order.sellers, seller_id: status}
    all_are = next((s for s in reversed(BY_SELLER) if all(_has_reached(said.get(id), s) for id in sellers)), None)
    changed = replace(order, status=all_are or order.status, sellers=said, version=order.version + 1)
    event = OrderStatusChanged(
        order_id=order.id,
        order_number=order.order_number,
        customer_id=order.customer_id,
        seller_id=seller_id,
        status=status,
    )
    return changed, Raised(order.id, changed.version, event)


def cancel(order: Order, reason: str, cancelled_by: str) -> tuple[Order, Raised | None]:
    """CANCELLED, from any state before SHIPPED; an order that is cancelled already stays as it is, without an event.

    Raises ForbiddenState from SHIPPED and DELIVERED, and once one of its sellers has shipped.
    """
    if order.status is OrderStatus.CANCELLED:
        return order, None
    if order.status in BY_SELLER or order.sellers:
        state = order.status if order.status in BY_SELLER else "partly SHIPPED"
        raise ForbiddenState("Order", order.id, state, "cancelled")
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


def _sold(order_id: str, item: OrderItem) -> Raised:
    event = ProductSold(
        product_id=item.product_id, order_id=order_id, quantity=item.quantity, amount=item.price * item.quantity
    )
    return Raised(str(item.product_id), None, event)


def _has_reached(said: OrderStatus | None, status: OrderStatus) -> bool:
    return said is not None and BY_SELLER.index(said) >= BY_SELLER.index(status)


def _item(number: int, line: Line, catalogue: Mapping[int, Product]) -> OrderItem:
    product = catalogue.get(line.product_id)
    if product is None:
        raise InvalidRequest(f"There is no product {line.product_id}.", f"/items/{number}/productId")
    if line.price is not None and line.price != product.price:
        raise InvalidRequest(f"Product {product.id} costs {product.price}, not {line.price}.", f"/items/{number}/price")
    return OrderItem(product_id=product.id, seller_id=product.seller_id, quantity=line.quantity, price=product.price)
