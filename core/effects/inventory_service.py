"""inventory-service: hold the stock an order asks for, keep it when the order is confirmed, put it back when cancelled.

A batch reads and locks what it touches in key order (reservations, then products), is decided in memory, and written
with one statement a table. Commands and the order's own events are two topics, so a cancellation may overtake the
request: it leaves a note that refuses the request.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert

from core.domain.events import Event, OrderCancelled, OrderConfirmed, Raised, ReleaseInventory, ReserveInventory
from core.domain.inventory import Reservation, ReservationStatus, Stock
from core.effects.payloads import follow_up, read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"ReserveInventory", "ReleaseInventory", "OrderConfirmed", "OrderCancelled"})


def keep_stock(shop: ShopTables) -> GroupHandler:
    """The group's handler."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        events = [read(envelope, Event) for envelope in envelopes]
        stock = _load(connection, shop, events, sorted({envelope.key for envelope in envelopes}))
        done: list[Done] = []
        publish: list[Envelope] = []
        for event, envelope in zip(events, envelopes, strict=True):
            what, raised = _decide(stock, event)
            done.append(what)
            if raised is not None:
                publish.append(follow_up(raised, envelope))
        _store(connection, shop, stock)
        return HandlerResult(done, publish)

    return handle


def _decide(stock: Stock, event: Event) -> tuple[Done, Raised | None]:
    match event:
        case ReserveInventory():
            raised = stock.reserve(event)
            if raised is None:
                return Ignored("it was refused before"), None
            return ("stock_held" if stock.is_held(event.order_id) else "stock_refused"), raised
        case OrderConfirmed():
            raised = stock.confirm(event.order_id)
            return ("stock_confirmed" if raised else Ignored("nothing is held")), raised
        case ReleaseInventory() | OrderCancelled():
            is_early = event.order_id not in stock.reservations
            raised = stock.release(event.order_id, event.reason)
            if is_early:
                return "release_noted", None
            return ("stock_released" if raised else Ignored("nothing is held")), raised
        case _:
            return Ignored("not a matter of stock"), None


def _load(connection: Connection, shop: ShopTables, events: Sequence[Event], order_ids: Sequence[str]) -> Stock:
    """What the events touch, locked until the transaction ends."""
    reservations = _reservations(connection, shop, order_ids)
    products = {item.product_id for event in events if isinstance(event, ReserveInventory) for item in event.items}
    products.update(product for reservation in reservations.values() for product in reservation.quantities)
    product = shop.product
    rows = connection.execute(
        select(product.c.id, product.c.stock)
        .where(product.c.id.in_(sorted(products)))
        .order_by(product.c.id)
        .with_for_update(key_share=True)
    )
    return Stock({row.id: row.stock for row in rows}, reservations)


def _reservations(connection: Connection, shop: ShopTables, order_ids: Sequence[str]) -> dict[str, Reservation]:
    header, item = shop.stock_reservation, shop.stock_reservation_item
    headers = connection.execute(
        select(header).where(header.c.order_id.in_(order_ids)).order_by(header.c.order_id).with_for_update()
    ).all()
    if not headers:
        return {}
    quantities: dict[UUID, dict[int, int]] = {row.order_id: {} for row in headers}
    for row in connection.execute(
        select(item.c.order_id, item.c.product_id, func.sum(item.c.quantity).label("quantity"))
        .where(item.c.order_id.in_(list(quantities)))
        .group_by(item.c.order_id, item.c.product_id)
    ):
        quantities[row.order_id][row.product_id] = int(row.quantity)
    return {
        str(row.order_id): Reservation(ReservationStatus(row.status), row.version, quantities[row.order_id], row.reason)
        for row in headers
    }


def _store(connection: Connection, shop: ShopTables, stock: Stock) -> None:
    if stock.touched:
        _store_reservations(connection, shop, {key: stock.reservations[key] for key in sorted(stock.touched)})
    if stock.taken:
        connection.execute(
            insert(shop.stock_reservation_item),
            [{"order_id": order_id, "product_id": p, "quantity": count} for order_id, p, count in stock.taken],
        )
    changes = [{"product": key, "change": count} for key, count in sorted(stock.delta.items()) if count]
    if changes:
        product = shop.product
        connection.execute(
            update(product)
            .where(product.c.id == bindparam("product"))
            .values(stock=product.c.stock + bindparam("change")),
            changes,
        )


def _store_reservations(connection: Connection, shop: ShopTables, changed: Mapping[str, Reservation]) -> None:
    header = shop.stock_reservation
    given = insert(header)
    connection.execute(
        given.on_conflict_do_update(
            index_elements=[header.c.order_id],
            set_={"status": given.excluded.status, "version": given.excluded.version, "reason": given.excluded.reason},
        ),
        [
            {"order_id": key, "status": value.status.value, "version": value.version, "reason": value.reason}
            for key, value in changed.items()
        ],
    )
