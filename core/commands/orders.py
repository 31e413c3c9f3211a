"""What a request may change about an order. Each change is one transaction: order, event and pending row, or none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from core.commands.context import Context, envelope_of
from core.commands.requests import Answer, Ask, find_answer, keep_answer
from core.domain import orders
from core.domain.events import OrderItem, Raised
from core.domain.inventory import ReservationStatus
from core.domain.orders import Line, Order, OrderStatus, Product
from core.domain.rules import RuleBroken, UnknownThing
from core.storage.shop import ShopTables


class CreateOrder(NamedTuple):
    customer_id: str
    lines: tuple[Line, ...]
    buyer_email: str | None
    shipping_address: str | None
    card_type: str = "CREDIT"


class CreatesOrder(Protocol):
    """Seam `flow`: `create_order`, or what does more before the answer."""

    def __call__(self, context: Context, command: CreateOrder, correlation_id: str, ask: Ask | None) -> Answer: ...


def create_order(context: Context, command: CreateOrder, correlation_id: str, ask: Ask | None) -> Answer:
    """Write a PENDING order and its OrderCreated; return 201 with the order, or the answer given to `ask` before.

    Raises InvalidRequest and KeyReused.
    """
    orders.check_lines(command.lines)
    order_id, event_id, now = context.new_id(), context.new_id(), context.now()
    try:
        with context.engine.begin() as connection:
            order_number, catalogue = _look_up(connection, context.shop, [line.product_id for line in command.lines])
            order, raised = orders.create(
                order_id,
                order_number,
                command.customer_id,
                command.lines,
                catalogue,
                buyer_email=command.buyer_email,
                shipping_address=command.shipping_address,
                card_type=command.card_type,
            )
            answer = Answer(201, _body_of(order, now))
            if ask is not None:
                keep_answer(connection, context.shop, ask, answer, order_id)
            _insert(connection, context.shop, order, command, now)
            envelopes = [envelope_of(raised, event_id, now, correlation_id)]
            context.write(connection, envelopes)
    except (RuleBroken, IntegrityError):
        # A repeat of what succeeded before gets that answer, also if today's catalogue would refuse it.
        given = find_answer(context, ask)
        if given is None:
            raise
        return given
    context.committed(envelopes)
    return answer


def confirm_order(context: Context, order_id: UUID, customer_id: str, correlation_id: str) -> None:
    """Write CONFIRMED and OrderConfirmed. Raises UnknownThing, and ForbiddenState also where its stock was refused."""

    def decide(connection: Connection, order: Order) -> tuple[Order, Raised]:
        return orders.confirm(order, _reservation_of(connection, context.shop, order_id))

    _change(context, order_id, customer_id, correlation_id, decide)


def cancel_order(
    context: Context, order_id: UUID, customer_id: str, correlation_id: str, reason: str, cancelled_by: str
) -> None:
    """Write CANCELLED and OrderCancelled, or nothing if it is cancelled. Raises UnknownThing and ForbiddenState."""
    _change(
        context,
        order_id,
        customer_id,
        correlation_id,
        lambda _, order: orders.cancel(order, reason, cancelled_by),
    )


def change_order_status(
    context: Context, order_id: UUID, seller_id: str, status: OrderStatus, correlation_id: str
) -> Order:
    """Write what the seller says of its items and OrderStatusChanged. Raises UnknownThing and ForbiddenState."""
    return _change(
        context, order_id, None, correlation_id, lambda _, order: orders.change_status(order, seller_id, status)
    )


def _change(
    context: Context,
    order_id: UUID,
    customer_id: str | None,
    correlation_id: str,
    decide: Callable[[Connection, Order], tuple[Order, Raised | None]],
) -> Order:
    """Read the order locked, let the domain decide, write state and event. `customer_id=None`: whoever's it is."""
    with context.engine.begin() as connection:
        order = load_orders(connection, context.shop, [str(order_id)]).get(str(order_id))
        if order is None or customer_id not in (None, order.customer_id):
            raise UnknownThing("order", str(order_id))
        changed, raised = decide(connection, order)
        if raised is None:
            return order
        store_orders(connection, context.shop, [changed])
        envelopes = [envelope_of(raised, context.new_id(), context.now(), correlation_id)]
        context.write(connection, envelopes)
    context.committed(envelopes)
    return changed


def load_orders(connection: Connection, shop: ShopTables, order_ids: Sequence[str]) -> dict[str, Order]:
    """By id, locked in key order until the transaction ends: so an order's versions have no gaps."""
    table, item = shop.orders, shop.order_items
    rows = connection.execute(
        select(table).where(table.c.id.in_(order_ids)).order_by(table.c.id).with_for_update(key_share=True)
    ).all()
    lines: dict[UUID, list[Row[Any]]] = {row.id: [] for row in rows}
    for line in connection.execute(
        select(item).where(item.c.order_id.in_(list(lines))).order_by(item.c.order_id, item.c.line_no)
    ):
        lines[line.order_id].append(line)
    return {str(row.id): _order(row, lines[row.id]) for row in rows}


def store_orders(connection: Connection, shop: ShopTables, changed: Iterable[Order]) -> None:
    """The parts of orders that change, in key order: status, version, what sellers have said."""
    ordered = sorted(changed, key=lambda order: order.id)
    if not ordered:
        return
    table, item = shop.orders, shop.order_items
    connection.execute(
        update(table)
        .where(table.c.id == bindparam("order_id"))
        .values(status=bindparam("new_status"), version=bindparam("new_version")),
        [{"order_id": order.id, "new_status": order.status.value, "new_version": order.version} for order in ordered],
    )
    said = [
        {"of_order": order.id, "of_seller": seller, "new_status": status.value}
        for order in ordered
        for seller, status in sorted(order.sellers.items())
    ]
    if said:
        connection.execute(
            update(item)
            .where(item.c.order_id == bindparam("of_order"), item.c.seller_id == bindparam("of_seller"))
            .values(status=bindparam("new_status")),
            said,
        )


def _order(row: Row[Any], lines: Sequence[Row[Any]]) -> Order:
    return Order(
        id=str(row.id),
        order_number=str(row.order_number),
        customer_id=row.customer_id,
        items=tuple(
            OrderItem(product_id=i.product_id, seller_id=i.seller_id, quantity=i.quantity, price=i.price) for i in lines
        ),
        original_total=row.original_total,
        discount=row.discount,
        total_amount=row.total_amount,
        status=OrderStatus(row.status),
        version=row.version,
        sellers={line.seller_id: OrderStatus(line.status) for line in lines if line.status is not None},
    )


def _reservation_of(connection: Connection, shop: ShopTables, order_id: UUID) -> ReservationStatus | None:
    table = shop.stock_reservation
    found = connection.execute(select(table.c.status).where(table.c.order_id == order_id)).scalar_one_or_none()
    return None if found is None else ReservationStatus(found)


def _look_up(connection: Connection, shop: ShopTables, product_ids: Sequence[int]) -> tuple[str, Mapping[int, Product]]:
    """The next order number and the products that exist, in one round trip."""
    product = shop.product
    rows = connection.execute(
        # As a scalar subquery the number is drawn once for all rows.
        select(
            product.c.id,
            product.c.seller_id,
            product.c.price,
            select(shop.order_number.next_value()).scalar_subquery().label("order_number"),
        ).where(product.c.id.in_(sorted(set(product_ids))))
    ).all()
    number = str(rows[0].order_number) if rows else ""
    return number, {row.id: Product(row.id, row.seller_id, row.price) for row in rows}


def _insert(connection: Connection, shop: ShopTables, order: Order, command: CreateOrder, now: datetime) -> None:
    connection.execute(
        insert(shop.orders),
        {
            "id": order.id,
            "order_number": int(order.order_number),
            "customer_id": order.customer_id,
            "original_total": order.original_total,
            "discount": order.discount,
            "total_amount": order.total_amount,
            "status": order.status.value,
            "version": order.version,
            "buyer_email": command.buyer_email,
            "shipping_address": command.shipping_address,
            "created_at": now,
        },
    )
    connection.execute(
        insert(shop.order_items),
        [
            {
                "order_id": order.id,
                "line_no": number,
                "product_id": item.product_id,
                "seller_id": item.seller_id,
                "quantity": item.quantity,
                "price": item.price,
            }
            for number, item in enumerate(order.items, start=1)
        ],
    )


def _body_of(order: Order, created_at: datetime) -> bytes:
    return orjson.dumps(
        {
            "id": order.id,
            "orderNumber": order.order_number,
            "customerId": order.customer_id,
            "status": order.status.value,
            "items": [
                {
                    "productId": item.product_id,
                    "sellerId": item.seller_id,
                    "quantity": item.quantity,
                    "price": item.price,
                }
                for item in order.items
            ],
            "originalTotalAmount": order.original_total,
            "discountAmount": order.discount,
            "totalAmount": order.total_amount,
            "createdAt": created_at,
        },
        default=float,
    )
