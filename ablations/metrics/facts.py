"""What one fact adds to which count of which product, and a handler that counts one after the other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from core.domain.events import Event, LikeChanged, ProductSold, ProductViewed
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope


class Fact(NamedTuple):
    product_id: int
    column: str
    """Of product_metrics."""
    by: int
    done: str
    """The effect's name."""


def fact_of(envelope: Envelope) -> Fact | None:
    """None: not a fact about a product."""
    match read(envelope, Event):
        case LikeChanged(product_id=product_id, delta=delta):
            return Fact(product_id, "likes", delta, "likes_changed")
        case ProductViewed(product_id=product_id):
            return Fact(product_id, "views", 1, "view_counted")
        case ProductSold(product_id=product_id, quantity=quantity):
            return Fact(product_id, "sales", quantity, "sale_counted")
        case _:
            return None


def each_fact(count: Callable[[Connection, Fact], Done]) -> GroupHandler:
    """What is no fact is ignored."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        facts = map(fact_of, envelopes)
        return HandlerResult(
            [count(connection, fact) if fact else Ignored("not a fact about a product") for fact in facts]
        )

    return handle
