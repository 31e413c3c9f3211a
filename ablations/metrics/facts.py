"""What one fact adds to which count of which product."""

from typing import NamedTuple

from core.domain.events import Event, LikeChanged, ProductSold, ProductViewed
from core.effects.payloads import read
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
