"""Read a customer's orders as they are now."""

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from core.storage.shop import ShopTables


def find_order(connection: Connection, shop: ShopTables, order_id: UUID, customer_id: str) -> dict[str, Any] | None:
    """The order in the form of the API, or None if it does not exist or is another customer's."""
    orders, items = shop.orders, shop.order_items
    order = connection.execute(
        select(orders).where(orders.c.id == order_id, orders.c.customer_id == customer_id)
    ).one_or_none()
    if order is None:
        return None
    lines = connection.execute(select(items).where(items.c.order_id == order_id).order_by(items.c.line_no))
    return {
        "id": str(order.id),
        "orderNumber": str(order.order_number),
        "customerId": order.customer_id,
        "status": order.status,
        "items": [
            {
                "productId": line.product_id,
                "sellerId": line.seller_id,
                "quantity": line.quantity,
                "price": line.price,
            }
            for line in lines
        ],
        "originalTotalAmount": order.original_total,
        "discountAmount": order.discount,
        "totalAmount": order.total_amount,
        "createdAt": order.created_at,
    }
