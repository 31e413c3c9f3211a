"""What a customer is told about an event, on which channels, in which words."""

from typing import NamedTuple

from core.domain.events import (
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderPaid,
    OrderStatusChanged,
    PaymentFailed,
)

PUSH, SMS = "PUSH", "SMS"


class Notification(NamedTuple):
    customer_id: str
    type: str
    message: str
    channels: tuple[str, ...] = (PUSH,)


def notification_for(event: Event) -> Notification | None:
    match event:
        case OrderCreated():
            message = f"Order {event.order_number} was created: {event.total_amount}"
            return Notification(event.customer_id, "ORDER_CREATED", message)
        case OrderConfirmed():
            message = f"Order {event.order_number} is confirmed"
            return Notification(event.customer_id, "ORDER_CONFIRMED", message, (PUSH, SMS))
        case OrderPaid():
            return Notification(event.customer_id, "ORDER_PAID", f"{event.total_amount} was paid for your order")
        case OrderCancelled():
            message = f"Order {event.order_number} was cancelled: {event.reason}"
            return Notification(event.customer_id, "ORDER_CANCELLED", message)
        case OrderStatusChanged():
            message = f"{event.seller_id} has {event.status.lower()} items of order {event.order_number}"
            return Notification(event.customer_id, f"ORDER_{event.status}", message)
        case PaymentFailed():
            message = f"The payment of order {event.order_number} failed: {event.reason}"
            return Notification(event.customer_id, "PAYMENT_FAILED", message)
        case _:
            return None
