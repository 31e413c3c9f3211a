"""What a customer does to a product: likes it, takes the like back, looks at it. Each is a fact for product-metrics."""

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from core.commands.context import Context, envelope_of
from core.domain.events import Event, LikeChanged, ProductViewed, Raised
from core.domain.rules import UnknownThing


class Product(NamedTuple):
    id: int
    seller_id: str
    name: str
    price: Decimal


def like(context: Context, product_id: int, customer_id: str, correlation_id: str) -> None:
    """A like that is there already stays, without an event. Raises UnknownThing."""
    likes = context.shop.product_like

    def change(connection: Connection) -> Event | None:
        given = insert(likes).values(product_id=product_id, customer_id=customer_id).on_conflict_do_nothing()
        is_new = connection.execute(given.returning(likes.c.product_id)).first() is not None
        return LikeChanged(product_id=product_id, customer_id=customer_id, delta=1) if is_new else None

    _do(context, product_id, correlation_id, change)


def unlike(context: Context, product_id: int, customer_id: str, correlation_id: str) -> None:
    """Nothing happens, and no event, where there is no like to take back. Raises UnknownThing."""
    likes = context.shop.product_like

    def change(connection: Connection) -> Event | None:
        taken = delete(likes).where(likes.c.product_id == product_id, likes.c.customer_id == customer_id)
        was_there = connection.execute(taken.returning(likes.c.product_id)).first() is not None
        return LikeChanged(product_id=product_id, customer_id=customer_id, delta=-1) if was_there else None

    _do(context, product_id, correlation_id, change)


def view(context: Context, product_id: int, customer_id: str, correlation_id: str) -> Product:
    """The product, its view recorded. Raises UnknownThing."""
    viewed = ProductViewed(product_id=product_id, customer_id=customer_id)
    return _do(context, product_id, correlation_id, lambda connection: viewed)


def _do(
    context: Context, product_id: int, correlation_id: str, change: Callable[[Connection], Event | None]
) -> Product:
    """Product, change and the event it makes in one transaction; product facts belong to no version."""
    product = context.shop.product.c
    with context.engine.begin() as connection:
        row = connection.execute(
            select(product.id, product.seller_id, product.name, product.price).where(product.id == product_id)
        ).one_or_none()
        if row is None:
            raise UnknownThing("product", str(product_id))
        event = change(connection)
        if event is None:
            return Product(*row)
        raised = Raised(str(product_id), None, event)
        envelopes = [envelope_of(raised, context.new_id(), context.now(), correlation_id)]
        context.write(connection, envelopes)
    context.committed(envelopes)
    return Product(*row)
