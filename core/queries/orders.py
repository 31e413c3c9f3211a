"""Read a customer's orders as they are now."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from core.storage.shop import ShopTables


def find_order(connection: Connection, shop: ShopTables, order_id: UUID, customer_id: str) -> dict[str, Any] | None:
    """The order in the form of the API, or None if it does not exist or is another customer's."""
    orders = shop.orders
    rows = connection.execute(select(orders).where(orders.c.id == order_id, orders.c.customer_id == customer_id)).all()
    found = _with_items(connection, shop, rows)
    return found[0] if found else None


def list_orders(
    connection: Connection, shop: ShopTables, customer_id: str, limit: int, before: UUID | None
) -> list[dict[str, Any]]:
    """Newest first: at most `limit` of the customer's orders, older than the order `before` if that is given."""
    orders = shop.orders
    # Order ids are UUIDv7: their order is that of time.
    wanted = select(orders).where(orders.c.customer_id == customer_id).order_by(orders.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(orders.c.id < before)
    return _with_items(connection, shop, connection.execute(wanted).all())


def _with_items(connection: Connection, shop: ShopTables, orders: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    if not orders:
        return []
    items = shop.order_items
    lines: dict[UUID, list[dict[str, Any]]] = {order.id: [] for order in orders}
    for line in connection.execute(
        select(items).where(items.c.order_id.in_(list(lines))).order_by(items.c.order_id, items.c.line_no)
    ):
        lines[line.order_id].append(
            {"productId": line.product_id, "sellerId": line.seller_id, "quantity": line.quantity, "price": line.price}
        )
    return [
        {
            "id": str(order.id),
            "orderNumber": str(order.order_number),
            "customerId": order.customer_id,
            "status": order.status,
            "items": lines[order.id],
            "originalTotalAmount": order.original_total,
            "discountAmount": order.discount,
            "totalAmount": order.total_amount,
            "createdAt": order.created_at,
        }
        for order in orders
    ]
