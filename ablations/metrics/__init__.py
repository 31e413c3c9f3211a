"""Seam `metrics`: how product-metrics adds to a product's counts. Value -> what makes the group's handler."""

from collections.abc import Callable, Mapping

from ablations.metrics.read_modify_write import read_and_write_back
from ablations.metrics.trylock_skip import count_or_skip
from core.effects.product_metrics import count_facts
from core.inbox.handlers import GroupHandler
from core.storage.shop import ShopTables

METRICS: Mapping[str, Callable[[ShopTables], GroupHandler]] = {
    "atomic": count_facts,
    "read_modify_write": read_and_write_back,
    "trylock_skip": count_or_skip,
}
