"""What the data platform is told: one flat record an event, every field by the platform's own names."""

from collections.abc import Mapping
from datetime import datetime

from core.domain.events import Event, OrderCancelled, OrderConfirmed, TicketApplied


def platform_record(event: Event, occurred_at: datetime) -> Mapping[str, object] | None:
    """Values are JSON's, Decimals and datetimes; `kind` says which fields there are."""
    match event:
        case OrderConfirmed() | OrderCancelled():
            status = "CONFIRMED" if isinstance(event, OrderConfirmed) else "CANCELLED"
            return {
                "kind": f"ORDER_{status}",
                "status": status,
                "time": occurred_at,
                "orderId": event.order_id,
                "orderNumber": event.order_number,
                "userId": event.customer_id,
                "originalTotalAmount": event.original_total_amount,
                "discountAmount": event.discount_amount,
                "finalTotalAmount": event.total_amount,
            }
        case TicketApplied():
            return {
                "kind": "TICKET_APPLIED",
                "status": "APPLIED",
                "time": event.applied_at,
                "ticketId": event.ticket_id,
                "userId": event.customer_id,
                "phoneHash": event.phone_hash,
                "phoneMasked": event.phone_masked,
                "show": event.show,
            }
        case _:
            return None
