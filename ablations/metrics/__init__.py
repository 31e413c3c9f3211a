"""Seam `metrics`: how product-metrics adds to a product's counts. Value -> what makes the group's handler.

Seam `metrics.cache`: what it does with the cache beside them once a batch is committed. Value -> what makes that.
"""

from collections.abc import Callable, Mapping, Sequence

from ablations.metrics.cache_increment import add_to_cache
from ablations.metrics.read_modify_write import read_and_write_back
from ablations.metrics.trylock_skip import count_or_skip
from core.effects.product_metrics import count_facts, refresh_cache
from core.inbox.handlers import GroupHandler
from core.messaging.envelope import Envelope
from core.storage.metrics_cache import MetricsCache
from core.storage.shop import ShopTables

METRICS: Mapping[str, Callable[[ShopTables], GroupHandler]] = {
    "atomic": count_facts,
    "read_modify_write": read_and_write_back,
    "trylock_skip": count_or_skip,
}

METRICS_CACHE: Mapping[str, Callable[[MetricsCache], Callable[[Sequence[Envelope]], None]]] = {
    "refresh": refresh_cache,
    "increment": add_to_cache,
}
"""`off` is none of these: there is no cache then."""
