"""Which mail an event asks for. One mail for each (order or ticket, type, seller where the event has one)."""

from typing import NamedTuple

from core.domain.events import (
    Event,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderStatusChanged,
    TicketApplied,
)


class Mail(NamedTuple):
    about: str
    """The id of the order or ticket."""
    type: str
    customer_id: str
    subject: str
    seller_id: str = ""
    address: str | None = None
    """Where the event tells it; later mails about the same order go there too."""

    @property
    def key(self) -> str:
        """The same for the same mail, whatever event asks for it."""
        return ":".join(filter(None, (self.about, self.type, self.seller_id)))


def mail_for(event: Event) -> Mail | None:
    match event:
        case OrderCreated():
            subject = f"Your order {event.order_number} over {event.total_amount} was received"
            return Mail(event.order_id, "ORDER_CONFIRMATION", event.customer_id, subject, address=event.buyer_email)
        case OrderConfirmed():
            return Mail(
                event.order_id, "ORDER_CONFIRMED", event.customer_id, f"Your order {event.order_number} is confirmed"
            )
        case OrderCancelled():
            subject = f"Your order {event.order_number} was cancelled: {event.reason}"
            return Mail(event.order_id, "ORDER_CANCELLED", event.customer_id, subject)
        case OrderStatusChanged():
            subject = f"{event.seller_id} has {event.status.lower()} items of your order {event.order_number}"
            return Mail(event.order_id, f"ORDER_{event.status}", event.customer_id, subject, event.seller_id)
        case TicketApplied():
            return Mail(
                event.ticket_id, "TICKET_APPLIED", event.customer_id, f"Your application for {event.show} was received"
            )
        case _:
            return None
