"""inventory-service: hold the stock an order asks for, all of it or none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from core.domain.events import OrderCreated
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables


class Wish(NamedTuple):
    order_id: str
    quantities: Mapping[int, int]
    """Product id -> how many, summed over the order's lines."""


def reserve_stock(shop: ShopTables) -> GroupHandler:
    """The group's handler: locks the products of the whole batch in key order, then writes one statement a table."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        wishes = [_wish_of(envelope) for envelope in envelopes]
        stock = _lock(connection, shop, sorted({product for wish in wishes for product in wish.quantities}))
        held: list[Wish] = []
        done: list[Done] = []
        taken: Counter[int] = Counter()
        for wish in wishes:
            if all(stock.get(product, 0) - taken[product] >= count for product, count in wish.quantities.items()):
                taken.update(wish.quantities)
                held.append(wish)
                done.append("stock_held")
            else:
                done.append("stock_refused")
        _write(connection, shop, wishes, held, taken)
        return HandlerResult(done)

    return handle


def _wish_of(envelope: Envelope) -> Wish:
    event = read(envelope, OrderCreated)
    quantities: Counter[int] = Counter()
    for item in event.items:
        quantities[item.product_id] += item.quantity
    return Wish(event.order_id, quantities)


def _lock(connection: Connection, shop: ShopTables, product_ids: Sequence[int]) -> dict[int, int]:
    """Stock by product, locked until the transaction ends."""
    product = shop.product
    rows = connection.execute(
        select(product.c.id, product.c.stock)
        .where(product.c.id.in_(product_ids))
        .order_by(product.c.id)
        .with_for_update(key_share=True)
    )
    return {row.id: row.stock for row in rows}


def _write(
    connection: Connection, shop: ShopTables, wishes: Sequence[Wish], held: Sequence[Wish], taken: Mapping[int, int]
) -> None:
    kept = {wish.order_id for wish in held}
    reservation = shop.stock_reservation
    connection.execute(
        insert(reservation).on_conflict_do_update(
            index_elements=[reservation.c.order_id], set_={"version": reservation.c.version + 1}
        ),
        [
            {
                "order_id": wish.order_id,
                "status": "HELD" if wish.order_id in kept else "FAILED",
                "version": 1,
                "reason": None if wish.order_id in kept else "not enough stock",
            }
            for wish in wishes
        ],
    )
    if not held:
        return
    connection.execute(
        insert(shop.stock_reservation_item),
        [
            {"order_id": wish.order_id, "product_id": product, "quantity": count}
            for wish in held
            for product, count in sorted(wish.quantities.items())
        ],
    )
    product = shop.product
    connection.execute(
        update(product).where(product.c.id == bindparam("product")).values(stock=product.c.stock - bindparam("taken")),
        [{"product": key, "taken": count} for key, count in sorted(taken.items()) if count],
    )
