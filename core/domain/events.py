"""Every event of the shop: its payload, its aggregate, and where it travels. One table, `EVENT_TYPES`, names them all.

Payloads are immutable and self-contained: no consumer asks the order database to act. On the wire their fields are
camelCase and money is a JSON number with two decimals, read back as Decimal, never as float. Fields may be added with a
default, never renamed; unknown ones are ignored by readers. Who takes which event: `core.effects.table`.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple, TypeVar

import msgspec

ORDER_EVENTS = "order-events"
CATALOG_EVENTS = "catalog-events"


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all payloads. A msgspec struct: an immutable record that checks its types when read from JSON."""


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


class LikeChanged(Event, frozen=True, kw_only=True, rename="camel"):
    product_id: int
    customer_id: str
    delta: int
    """+1 or -1."""


class ProductViewed(Event, frozen=True, kw_only=True, rename="camel"):
    product_id: int
    customer_id: str


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
    "LikeChanged": EventType(LikeChanged, "Product", CATALOG_EVENTS, "like.changed"),
    "ProductViewed": EventType(ProductViewed, "Product", CATALOG_EVENTS, "product.viewed"),
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
