"""Read a product's metrics, counts that follow the facts by events: from their table, or from the cache before it."""

from typing import NamedTuple

from sqlalchemy import Connection, func, select

from core.storage.metrics_cache import MetricsCache
from core.storage.shop import ShopTables


class Metrics(NamedTuple):
    likes: int
    views: int
    sales: int


def find_metrics(connection: Connection, shop: ShopTables, product_id: int) -> Metrics | None:
    """None if there is no such product; zeros while nothing was counted for it."""
    product, metrics = shop.product, shop.product_metrics
    row = connection.execute(
        select(func.coalesce(metrics.c.likes, 0), func.coalesce(metrics.c.views, 0), func.coalesce(metrics.c.sales, 0))
        .select_from(product.outerjoin(metrics, metrics.c.product_id == product.c.id))
        .where(product.c.id == product_id)
    ).one_or_none()
    return Metrics(*row) if row is not None else None


def find_cached_metrics(cache: MetricsCache, product_id: int) -> Metrics | None:
    """As `find_metrics`, as it was at most the cache's age limit ago; what the cache has not is read and put there."""
    entry = cache.find(product_id)
    if entry is not None:
        return Metrics._make(entry)
    with cache.engine.connect() as connection:
        metrics = find_metrics(connection, cache.shop, product_id)
    if metrics is not None:
        cache.refresh([product_id])
    return metrics
