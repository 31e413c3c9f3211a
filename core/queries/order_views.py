"""Read orders from the read model: what was projected from events so far, never the tables that commands write."""

from typing import Any

from sqlalchemy import Connection, Row, select, tuple_

from core.storage.shop import ShopTables


def find_view(connection: Connection, shop: ShopTables, order_id: str) -> dict[str, Any] | None:
    """None while nothing of the order was projected."""
    view = shop.reactions.order_read_model
    row = connection.execute(select(view).where(view.c.order_id == order_id, view.c.version > 0)).one_or_none()
    return _content(row) if row is not None else None


def list_views(
    connection: Connection,
    shop: ShopTables,
    customer_id: str | None,
    status: str | None,
    limit: int,
    before: str | None,
) -> list[dict[str, Any]]:
    """Newest first: of one customer, in one status, or both; older than the order `before` if that is given."""
    view = shop.reactions.order_read_model
    wanted = select(view).where(view.c.version > 0).order_by(view.c.created_at.desc(), view.c.order_id.desc())
    if customer_id is not None:
        wanted = wanted.where(view.c.customer_id == customer_id)
    if status is not None:
        wanted = wanted.where(view.c.status == status)
    if before is not None:
        place = select(view.c.created_at, view.c.order_id).where(view.c.order_id == before)
        wanted = wanted.where(tuple_(view.c.created_at, view.c.order_id) < place.scalar_subquery())
    return [_content(row) for row in connection.execute(wanted.limit(limit))]


def _content(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.order_id,
        "orderNumber": row.order_number,
        "customerId": row.customer_id,
        "totalAmount": row.total_amount,
        "status": row.status,
        "isStockConfirmed": row.is_stock_confirmed,
        "cancellationReason": row.cancellation_reason,
        "createdAt": row.created_at,
        "updatedAt": row.updated_at,
        "version": row.version,
    }
