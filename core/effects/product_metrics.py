"""product-metrics: likes and views of each product, added up over a batch and written by one atomic statement.

Added to in the database, never read and written back: two processes of the group cannot lose each other's counts.
"""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import BigInteger, Connection, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from core.domain.events import Event, LikeChanged, ProductViewed
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"LikeChanged", "ProductViewed"})


def count_facts(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    metrics = shop.product_metrics
    arrays = [bindparam(name, type_=ARRAY(BigInteger)) for name in ("products", "likes", "views")]
    given = func.unnest(*arrays).table_valued("product_id", "likes", "views").render_derived()
    # Sorted by the caller: rows are locked in key order, so two workers do not deadlock.
    statement = insert(metrics).from_select(["product_id", "likes", "views"], select(given))
    add_all = statement.on_conflict_do_update(
        index_elements=[metrics.c.product_id],
        set_={
            "likes": metrics.c.likes + statement.excluded.likes,
            "views": metrics.c.views + statement.excluded.views,
        },
    )

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        likes: Counter[int] = Counter()
        views: Counter[int] = Counter()
        done: list[Done] = []
        for envelope in envelopes:
            match read(envelope, Event):
                case LikeChanged(product_id=product_id, delta=delta):
                    likes[product_id] += delta
                    done.append("likes_changed")
                case ProductViewed(product_id=product_id):
                    views[product_id] += 1
                    done.append("view_counted")
                case _:
                    done.append(Ignored("not a fact about a product"))
        products = sorted(likes.keys() | views.keys())
        if products:
            counts = {"likes": [likes[key] for key in products], "views": [views[key] for key in products]}
            connection.execute(add_all, {"products": products, **counts})
        return HandlerResult(done)

    return handle
