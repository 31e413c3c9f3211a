"""Read what a customer was told."""

from typing import Any

from sqlalchemy import Connection, select

from core.storage.shop import ShopTables


def list_notifications(
    connection: Connection, shop: ShopTables, customer_id: str, limit: int, before: int | None
) -> list[dict[str, Any]]:
    """Newest first: at most `limit` of the customer's notifications, older than number `before` if that is given."""
    told = shop.reactions.notification
    wanted = select(told).where(told.c.customer_id == customer_id).order_by(told.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(told.c.id < before)
    return [
        {
            "id": row.id,
            "type": row.type,
            "channel": row.channel,
            "message": row.message,
            "createdAt": row.created_at,
        }
        for row in connection.execute(wanted)
    ]
