"""product-metrics: sales, likes and views of each product, added up over a batch and written by one atomic statement.

Added to in the database, never read and written back: two processes of the group cannot lose each other's counts. The
cache beside them, where one is kept, is not added to: after the commit it gets copies of the rows (`refresh_cache`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import BigInteger, Connection, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert

from core.domain.events import Event, LikeChanged, ProductSold, ProductViewed
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored, Poison
from core.messaging.envelope import Envelope
from core.storage.metrics_cache import COUNTS, MetricsCache
from core.storage.shop import ShopTables

TAKES = frozenset({"LikeChanged", "ProductViewed", "ProductSold"})


def count_facts(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    metrics = shop.product_metrics
    arrays = [bindparam(name, type_=ARRAY(BigInteger)) for name in ("products", *COUNTS)]
    given = func.unnest(*arrays).table_valued("product_id", *COUNTS).render_derived()
    # Sorted by the caller: rows are locked in key order, so two workers do not deadlock.
    statement = insert(metrics).from_select(["product_id", *COUNTS], select(given))
    add_all = statement.on_conflict_do_update(
        index_elements=[metrics.c.product_id],
        set_={
            **{name: metrics.c[name] + statement.excluded[name] for name in COUNTS},
            "version": metrics.c.version + 1,
        },
    )

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        counts: dict[str, Counter[int]] = {name: Counter() for name in COUNTS}
        done: list[Done] = []
        for envelope in envelopes:
            match read(envelope, Event):
                case LikeChanged(product_id=product_id, delta=delta):
                    counts["likes"][product_id] += delta
                    done.append("likes_changed")
                case ProductViewed(product_id=product_id):
                    counts["views"][product_id] += 1
                    done.append("view_counted")
                case ProductSold(product_id=product_id, quantity=quantity):
                    counts["sales"][product_id] += quantity
                    done.append("sale_counted")
                case _:
                    done.append(Ignored("not a fact about a product"))
        products = sorted(set().union(*counts.values()))
        if products:
            added = {name: [of[key] for key in products] for name, of in counts.items()}
            connection.execute(add_all, {"products": products, **added})
        return HandlerResult(done)

    return handle


def refresh_cache(cache: MetricsCache) -> Callable[[Sequence[Envelope]], None]:
    """A worker's `call_outside`: nothing enters the cache that could still be rolled back, and what a crash kept from
    it comes with the redelivery. Repeats are copied again, which changes nothing."""

    def after_commit(envelopes: Sequence[Envelope]) -> None:
        cache.refresh(_products_of(envelopes))

    return after_commit


def _products_of(envelopes: Sequence[Envelope]) -> set[int]:
    found = set()
    for envelope in envelopes:
        # An ablation of `on_error` hands over what could not be read too.
        with suppress(Poison):
            event = read(envelope, Event)
            if isinstance(event, LikeChanged | ProductViewed | ProductSold):
                found.add(event.product_id)
    return found
