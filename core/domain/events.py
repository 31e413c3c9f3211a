"""Every event and command of the shop: its payload, its aggregate, where it travels. `EVENT_TYPES` names them all.

An event is a fact, named in the past tense. A command asks one group for something that it may refuse; it is named in
the imperative and travels the same way, on a topic of its own.

Payloads are immutable and self-contained: no consumer asks the order database to act. On the wire their fields are
camelCase and money is a JSON number with two decimals, read back as Decimal, never as float. Fields may be added with a
default, never renamed; unknown ones are ignored by readers. Who takes which event: `core.effects.table`.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, TypeVar

import msgspec

ORDER_EVENTS = "order-events"
ORDER_COMMANDS = "order-commands"
CATALOG_EVENTS = "catalog-events"
TICKET_APPLIED = "ticket-applied"


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all payloads. A msgspec struct: an immutable record that checks its types when read from JSON."""


class Command(Event, frozen=True, kw_only=True, rename="camel"):
    """Base of the payloads that ask for something. Their key is the order, their aggregate the order's saga."""

    order_id: str


class OrderItem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    product_id: int
    seller_id: str
    quantity: int
    price: Decimal


class OrderCreated(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    order_number: str
    customer_id: str
    buyer_email: str | None
    seller_ids: tuple[str, ...]
    items: tuple[OrderItem, ...]
    original_total_amount: Decimal
    discount_amount: Decimal
    total_amount: Decimal
    shipping_address: str | None
    card_type: str = "CREDIT"
    """What the payment is charged to, in the gateway's words."""


class OrderConfirmed(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    order_number: str
    customer_id: str
    original_total_amount: Decimal
    discount_amount: Decimal
    total_amount: Decimal


class OrderCancelled(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    order_number: str
    customer_id: str
    original_total_amount: Decimal
    discount_amount: Decimal
    total_amount: Decimal
    reason: str
    cancelled_by: str


class OrderPaid(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    customer_id: str
    payment_id: str
    payment_method: str
    total_amount: Decimal


class OrderStatusChanged(Event, frozen=True, kw_only=True, rename="camel"):
    """One seller has shipped or delivered its items; the order is there when all its sellers are."""

    order_id: str
    order_number: str
    customer_id: str
    seller_id: str
    status: str
    """SHIPPED or DELIVERED, of this seller's items."""


class InventoryReserved(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    items: tuple[OrderItem, ...]
    total_amount: Decimal


class InventoryReservationFailed(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    error_message: str
    short_items: tuple[int, ...]
    """Products of which there was not enough; empty if the reservation was withdrawn before it was asked for."""


class InventoryConfirmed(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str


class InventoryReleased(Event, frozen=True, kw_only=True, rename="camel"):
    order_id: str
    reason: str


class PaymentCompleted(Event, frozen=True, kw_only=True, rename="camel"):
    payment_id: str
    """The transaction key: what the gateway is called with."""
    order_id: str
    order_number: str
    customer_id: str
    amount: Decimal
    card_type: str
    payment_method: str


class PaymentFailed(Event, frozen=True, kw_only=True, rename="camel"):
    payment_id: str
    order_id: str
    order_number: str
    customer_id: str
    amount: Decimal
    card_type: str
    payment_method: str
    reason: str


class PaymentCancelled(Event, frozen=True, kw_only=True, rename="camel"):
    payment_id: str
    order_id: str
    amount: Decimal
    reason: str


class ReserveInventory(Command, frozen=True, kw_only=True, rename="camel"):
    items: tuple[OrderItem, ...]
    total_amount: Decimal


class ReleaseInventory(Command, frozen=True, kw_only=True, rename="camel"):
    reason: str


class ProcessPayment(Command, frozen=True, kw_only=True, rename="camel"):
    order_number: str
    customer_id: str
    total_amount: Decimal
    card_type: str


class CancelPayment(Command, frozen=True, kw_only=True, rename="camel"):
    reason: str


class ConfirmOrder(Command, frozen=True, kw_only=True, rename="camel"):
    payment_id: str
    payment_method: str


class CancelOrder(Command, frozen=True, kw_only=True, rename="camel"):
    reason: str


class LikeChanged(Event, frozen=True, kw_only=True, rename="camel"):
    product_id: int
    customer_id: str
    delta: int
    """+1 or -1."""


class ProductViewed(Event, frozen=True, kw_only=True, rename="camel"):
    product_id: int
    customer_id: str


class ProductSold(Event, frozen=True, kw_only=True, rename="camel"):
    """One line of an order that was paid."""

    product_id: int
    order_id: str
    quantity: int
    amount: Decimal
    """Price times quantity."""


class TicketApplied(Event, frozen=True, kw_only=True, rename="camel"):
    ticket_id: str
    customer_id: str
    phone_hash: str
    phone_masked: str
    """The phone number itself never travels."""
    show: str
    applied_at: datetime
    """Aware, UTC."""


class EventType(NamedTuple):
    payload: type[Event]
    aggregate_type: str
    topic: str
    event_key: str
    """Dotted and lower case; written out, never derived from the class name."""
    schema_version: int = 1


EVENT_TYPES: Mapping[str, EventType] = {
    "OrderCreated": EventType(OrderCreated, "Order", ORDER_EVENTS, "order.created"),
    "OrderConfirmed": EventType(OrderConfirmed, "Order", ORDER_EVENTS, "order.confirmed"),
    "OrderCancelled": EventType(OrderCancelled, "Order", ORDER_EVENTS, "order.cancelled"),
    "OrderPaid": EventType(OrderPaid, "Order", ORDER_EVENTS, "order.paid"),
    "OrderStatusChanged": EventType(OrderStatusChanged, "Order", ORDER_EVENTS, "order.status-changed"),
    "InventoryReserved": EventType(InventoryReserved, "StockReservation", ORDER_EVENTS, "inventory.reserved"),
    "InventoryReservationFailed": EventType(
        InventoryReservationFailed, "StockReservation", ORDER_EVENTS, "inventory.reservation-failed"
    ),
    "InventoryConfirmed": EventType(InventoryConfirmed, "StockReservation", ORDER_EVENTS, "inventory.confirmed"),
    "InventoryReleased": EventType(InventoryReleased, "StockReservation", ORDER_EVENTS, "inventory.released"),
    "PaymentCompleted": EventType(PaymentCompleted, "Payment", ORDER_EVENTS, "payment.completed"),
    "PaymentFailed": EventType(PaymentFailed, "Payment", ORDER_EVENTS, "payment.failed"),
    "PaymentCancelled": EventType(PaymentCancelled, "Payment", ORDER_EVENTS, "payment.cancelled"),
    "ReserveInventory": EventType(ReserveInventory, "OrderSaga", ORDER_COMMANDS, "inventory.reserve"),
    "ReleaseInventory": EventType(ReleaseInventory, "OrderSaga", ORDER_COMMANDS, "inventory.release"),
    "ProcessPayment": EventType(ProcessPayment, "OrderSaga", ORDER_COMMANDS, "payment.process"),
    "CancelPayment": EventType(CancelPayment, "OrderSaga", ORDER_COMMANDS, "payment.cancel"),
    "ConfirmOrder": EventType(ConfirmOrder, "OrderSaga", ORDER_COMMANDS, "order.confirm"),
    "CancelOrder": EventType(CancelOrder, "OrderSaga", ORDER_COMMANDS, "order.cancel"),
    "LikeChanged": EventType(LikeChanged, "Product", CATALOG_EVENTS, "like.changed"),
    "ProductViewed": EventType(ProductViewed, "Product", CATALOG_EVENTS, "product.viewed"),
    "ProductSold": EventType(ProductSold, "Product", CATALOG_EVENTS, "product.sold"),
    "TicketApplied": EventType(TicketApplied, "Ticket", TICKET_APPLIED, "ticket.applied"),
}


class Raised(NamedTuple):
    """An event as an aggregate raises it; the command adds id, time and the chain of causes."""

    key: str
    """The aggregate's id."""
    sequence: int | None
    """The aggregate's version that this event made; None for facts that belong to no version."""
    event: Event


class UnreadableEvent(Exception):
    """The type is not registered, its schema is newer than this reader, or the payload does not fit it."""


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODERS = {name: msgspec.json.Decoder(kind.payload) for name, kind in EVENT_TYPES.items()}

E = TypeVar("E", bound=Event)


def to_json(event: Event) -> bytes:
    """The payload as JSON text."""
    return _ENCODER.encode(event)


def from_json(event_type: str, schema_version: int, data: bytes) -> Event:
    """The payload of a registered type. Raises UnreadableEvent, with the reason, for anything else."""
    kind = EVENT_TYPES.get(event_type)
    if kind is None:
        raise UnreadableEvent(f"event type {event_type!r} is not registered")
    if schema_version > kind.schema_version:
        raise UnreadableEvent(
            f"{event_type} has schema {schema_version}; this reader knows up to {kind.schema_version}"
        )
    try:
        return _DECODERS[event_type].decode(data)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent(f"{event_type}: {error}") from error
