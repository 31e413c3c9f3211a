"""What of a committed batch the cache beside the product metrics is told, and that there is none unless asked for."""

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal

from core.commands.context import envelope_of, new_uuid7
from core.domain.events import Event, LikeChanged, OrderPaid, ProductSold, ProductViewed, Raised
from core.effects.product_metrics import refresh_cache
from core.messaging.envelope import Envelope
from core.storage.metrics_cache import MetricsCache
from testbed import wiring
from testbed.settings import read_settings


class Noted(MetricsCache):
    def __init__(self) -> None:
        self.asked: list[set[int]] = []

    def refresh(self, product_ids: Collection[int]) -> None:
        self.asked.append(set(product_ids))


def delivered(key: str, event: Event) -> Envelope:
    return envelope_of(Raised(key, None, event), new_uuid7(), datetime.now(UTC), None)


def test_a_batch_is_one_refresh_of_the_products_it_speaks_of() -> None:
    cache = Noted()
    other = OrderPaid(order_id="o-1", customer_id="c-1", payment_id="p", payment_method="m", total_amount=Decimal(1))
    facts = [
        delivered("1", LikeChanged(product_id=1, customer_id="c-1", delta=1)),
        delivered("2", ProductSold(product_id=2, order_id="o-1", quantity=1, amount=Decimal(1))),
        delivered("1", ProductViewed(product_id=1, customer_id="c-1")),
    ]
    unreadable = facts[-1]._replace(data=b"{}")
    refresh_cache(cache)([*facts, unreadable, delivered("o-1", other)])
    assert cache.asked == [{1, 2}]


def test_there_is_no_cache_unless_its_seam_is_set() -> None:
    settings = read_settings()
    database = wiring.open_database(settings)
    assert wiring.metrics_cache(settings, database) is None
    for way in ("refresh", "increment"):
        chosen = settings.model_copy(update={"seams": {"metrics.cache": way}})
        assert isinstance(wiring.metrics_cache(chosen, database), MetricsCache)
