"""Read a customer's ticket application as it is now."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from core.storage.shop import ShopTables


def find_ticket(connection: Connection, shop: ShopTables, ticket_id: UUID, customer_id: str) -> dict[str, Any] | None:
    """The ticket in the form of the API, or None if it does not exist or is another customer's."""
    ticket = shop.ticket
    row = connection.execute(
        select(ticket).where(ticket.c.id == ticket_id, ticket.c.customer_id == customer_id)
    ).one_or_none()
    if row is None:
        return None
    return {
        "id": str(row.id),
        "customerId": row.customer_id,
        "show": row.show,
        "phoneMasked": row.phone_masked,
        "status": row.status,
        "appliedAt": row.applied_at,
    }
