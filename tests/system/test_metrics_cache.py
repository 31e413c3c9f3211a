"""Product metrics read through the cache that their consumer keeps: as the table says, whatever is delivered twice."""

from collections.abc import Sequence

import pytest

from core.messaging.envelope import Envelope
from tests.system.live_shop import BROKERS, LiveShop, live_shop, settings_for
from tests.waiting import until

GROUP = "product-metrics"
SET_S = 5.0
"""Within which the API must say what the table says."""
CACHE_S = 3_600.0
"""Far more: only the consumer can have brought the cache up to date, no entry grew too old."""


def visit(shop: LiveShop, customer: str) -> None:
    """Looks at product 1 and likes it."""
    assert shop.call("GET", "/api/v1/products/1", customer=customer).status_code == 200
    assert shop.call("POST", "/api/v1/products/1/likes", customer=customer).status_code == 204


def answer(shop: LiveShop) -> tuple[int, int]:
    body = shop.call("GET", "/api/v1/products/1/metrics").json()
    return body["likes"], body["views"]


def await_table(shop: LiveShop, times: int) -> None:
    until(lambda: shop.rows("SELECT likes, views FROM product_metrics") == [(times, times)])


def await_answer(shop: LiveShop, times: int) -> None:
    until(lambda: answer(shop) == (times, times), SET_S)


def on_the_wire(shop: LiveShop) -> list[Envelope]:
    admin = shop.broker.admin()
    found = [delivery.envelope for delivery in admin.read_all("catalog-events") if delivery.envelope]
    admin.close()
    return found


def publish(shop: LiveShop, envelopes: Sequence[Envelope]) -> None:
    """Straight to the broker, as a relay that repeats itself would."""
    publisher = shop.broker.publisher()
    assert all(outcome.is_confirmed for outcome in publisher.publish(envelopes, 30.0))
    publisher.close()


@pytest.mark.row("S1.34")
@pytest.mark.parametrize("broker", BROKERS)
def test_what_is_read_through_the_cache_follows_the_table_and_a_duplicate_poisons_only_a_cache_that_is_added_to(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    cache = {"seams": {"metrics.cache": "refresh"}, "metrics_cache_s": CACHE_S}
    with live_shop(settings_for(broker, database, request, groups=GROUP, **cache)) as shop:
        shop.start("relay", GROUP)
        for times in (1, 2, 3):
            visit(shop, f"c-{times}")
            await_table(shop, times)
            await_answer(shop, times)
        shop.write("UPDATE metrics_cache SET likes = 1000")
        assert answer(shop) == (1000, 3), "it is the cache that answers"

        facts = on_the_wire(shop)
        assert len({fact.id for fact in facts}) == 6
        publish(shop, facts)
        visit(shop, "c-4")  # of the same key, so behind the duplicates
        await_table(shop, 4)
        await_answer(shop, 4)

        shop.stop(GROUP)
        shop.settings = shop.settings.model_copy(update={"seams": {"metrics.cache": "increment"}})
        shop.start(GROUP)
        publish(shop, facts)
        visit(shop, "c-5")
        await_table(shop, 5)
        # Each duplicate was added; a broker may deliver more of them, and none makes it right again.
        until(lambda: min(answer(shop)) >= 5 + 3)
        assert shop.rows("SELECT likes, views FROM product_metrics") == [(5, 5)]
