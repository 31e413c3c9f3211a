"""The baseline of `testbed bench api`: a FastAPI endpoint as one writes it in ten minutes, with the rows of our order.

No token, no Idempotency-Key, no catalogue, no domain, no problem details, no metrics: validation, four inserts in one
transaction, an answer. `python -m benchmarks.parts.bare_api DATABASE_URL PORT`.
"""

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from zlib import crc32

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Engine, MetaData, insert
from uuid_utils import uuid7

from core.storage.database import create_database_engine
from core.storage.shop import shop_tables
from core.storage.tables import BUCKETS, messaging_tables

PRICE = Decimal("100.00")
POOL = 40
"""Connections; as many as `testbed serve` has, and as many as the server has threads."""


class Item(BaseModel):
    productId: int
    quantity: int


class Order(BaseModel):
    items: list[Item]


def bare_app(engine: Engine) -> FastAPI:
    metadata = MetaData()
    messages, shop = messaging_tables(metadata), shop_tables(metadata)
    app = FastAPI()

    @app.post("/api/v1/orders", status_code=201)
    def post_order(body: Order) -> dict[str, object]:
        order_id, total = str(uuid7()), sum((PRICE * item.quantity for item in body.items), Decimal(0))
        number = shop.order_number.next_value()
        items = [{"productId": i.productId, "quantity": i.quantity, "price": float(PRICE)} for i in body.items]
        payload = {"orderId": order_id, "items": items, "totalAmount": float(total)}
        with engine.begin() as connection:
            order_number = connection.execute(
                insert(shop.orders)
                .values(
                    id=order_id,
                    order_number=number,
                    customer_id="c-1",
                    original_total=total,
                    discount=0,
                    total_amount=total,
                    status="PENDING",
                    version=1,
                    created_at=datetime.now(UTC),
                )
                .returning(shop.orders.c.order_number)
            ).scalar_one()
            connection.execute(
                insert(shop.order_items),
                [
                    {
                        "order_id": order_id,
                        "line_no": line,
                        "product_id": item.productId,
                        "seller_id": "seller-1",
                        "quantity": item.quantity,
                        "price": PRICE,
                    }
                    for line, item in enumerate(body.items, 1)
                ],
            )
            event_row = connection.execute(
                insert(messages.event)
                .values(
                    event_id=str(uuid7()),
                    topic="order-events",
                    event_type="OrderCreated",
                    aggregate_type="Order",
                    aggregate_id=order_id,
                    sequence=1,
                    correlation_id=order_id,
                    payload=json.dumps(payload),
                )
                .returning(messages.event.c.id)
            ).scalar_one()
            connection.execute(
                insert(messages.pending).values(id=event_row, bucket=crc32(order_id.encode()) % BUCKETS, key=order_id)
            )
        return {**payload, "orderNumber": str(order_number), "status": "PENDING"}

    return app


if __name__ == "__main__":
    uvicorn.run(
        bare_app(create_database_engine(sys.argv[1], pool_connections=POOL)),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="warning",
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
