"""The cache beside the product metrics on a real PostgreSQL: what cannot get into it, how long what is old stays."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from sqlalchemy import text

from core.api.app import create_app
from core.commands.context import envelope_of, new_uuid7
from core.domain.events import LikeChanged, ProductViewed, Raised
from core.effects.product_metrics import count_facts
from core.inbox.worker import Worker
from core.inbox.writing import GroupWriting
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.storage.metrics_cache import MetricsCache
from testbed import wiring
from tests.system.api_server import served
from tests.system.live_shop import PRODUCTS, LiveShop, live_shop, settings_for
from tests.waiting import until

GROUP = "product-metrics"
LONG_S = 3_600.0
"""Nothing in a test grows as old as this."""


@pytest.fixture
def shop(request: pytest.FixtureRequest, database: str) -> Iterator[LiveShop]:
    """With a cache whose entries stay young, on the memory broker; no consumer runs."""
    cache = {"seams": {"metrics.cache": "refresh"}, "metrics_cache_s": LONG_S}
    with live_shop(settings_for("memory", database, request, groups=GROUP, **cache)) as running:
        yield running


@contextmanager
def api_with(shop: LiveShop, metrics_cache_s: float) -> Iterator[str]:
    """Another API before the same cache."""
    settings = shop.settings.model_copy(update={"metrics_cache_s": metrics_cache_s})
    with served(create_app(wiring.api_deps(settings, shop.database, shop.sink, NoProbe()))) as url:
        yield url


def answer(shop: LiveShop, url: str = "") -> tuple[int, int]:
    """Likes and views of product 1 through the API."""
    headers = {"Authorization": f"Bearer {wiring.development_token(shop.settings, 'c-1')}"}
    found = requests.get(f"{url or shop.url}/api/v1/products/1/metrics", headers=headers, timeout=60)
    assert found.status_code == 200, found.text
    return found.json()["likes"], found.json()["views"]


def in_table(shop: LiveShop) -> tuple[Any, ...]:
    return shop.rows("SELECT likes, views FROM product_metrics WHERE product_id = 1")[0]


def in_cache(shop: LiveShop) -> tuple[Any, ...]:
    """With its version."""
    return shop.rows("SELECT likes, views, version FROM metrics_cache WHERE product_id = 1")[0]


def likes_and_views(of_each: int) -> list[Envelope]:
    """Of product 1."""
    events = [
        event
        for number in range(of_each)
        for event in (
            LikeChanged(product_id=1, customer_id=f"c-{number}", delta=1),
            ProductViewed(product_id=1, customer_id=f"c-{number}"),
        )
    ]
    return [envelope_of(Raised("1", None, event), new_uuid7(), datetime.now(UTC), None) for event in events]


def count(shop: LiveShop, envelopes: Sequence[Envelope]) -> None:
    """With the inbox, as the worker does; the cache hears nothing of it."""
    with shop.database.engine.begin() as connection:
        GroupWriting(shop.database.messaging, GROUP, count_facts(shop.database.shop)).write(connection, envelopes)


def consumer(shop: LiveShop, probe: Probe) -> Worker:
    """What `testbed consume` runs for the group."""
    watch = wiring.Watch(None, probe)
    return wiring.worker(shop.settings, shop.database, shop.broker.subscriber(GROUP), GROUP, watch, shop.sink)


def publish(shop: LiveShop, envelopes: Sequence[Envelope]) -> None:
    assert all(outcome.is_confirmed for outcome in shop.broker.publisher().publish(envelopes, 5.0))


def consume(shop: LiveShop, messages: int) -> None:
    """Until so many were received and acked."""
    worker = consumer(shop, NoProbe())
    received = 0
    while received < messages:
        received += until(worker.step)
    worker.subscriber.close()
    assert received == messages


class Died(Exception):
    pass


class DiesOnceCommitted:
    """As a process killed after the commit: nothing that follows in the worker is done, the ack neither."""

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is Step.APPLIED:
            raise Died


def count_and_die_before_caching(shop: LiveShop) -> None:
    """A like and a view are counted and cached; of two more of each the consumer dies between commit and cache."""
    publish(shop, likes_and_views(1))
    consume(shop, 2)
    publish(shop, likes_and_views(2))
    worker = consumer(shop, DiesOnceCommitted())
    with pytest.raises(Died):
        worker.step()
    worker.subscriber.close()


@pytest.mark.row("S1.34", on="memory")
def test_after_a_crash_between_commit_and_cache_an_answer_is_old_until_the_age_limit_has_passed_and_no_longer(
    shop: LiveShop,
) -> None:
    count_and_die_before_caching(shop)
    assert (in_table(shop), in_cache(shop)) == ((3, 3), (1, 1, 1))
    assert answer(shop) == (1, 1), "the entry is young, for this API"
    with api_with(shop, metrics_cache_s=0.5) as url:
        too_old = "SELECT count(*) FROM metrics_cache WHERE clock_timestamp() - read_at > interval '0.5 s'"
        until(lambda: shop.count(too_old) == 1)
        assert answer(shop, url) == (3, 3)
    assert in_cache(shop) == (3, 3, 2), "what was read was put there"


@pytest.mark.row("S1.34", on="memory")
def test_a_redelivery_after_such_a_crash_is_counted_no_second_time_and_brings_the_cache_up_to_date(
    shop: LiveShop,
) -> None:
    count_and_die_before_caching(shop)
    assert answer(shop) == (1, 1)
    consume(shop, 4)
    assert (in_table(shop), answer(shop), in_cache(shop)) == ((3, 3), (3, 3), (3, 3, 2))


@contextmanager
def refresh_held_up(shop: LiveShop, cache: MetricsCache) -> Iterator[Any]:
    """A refresh has read the table, and waits for the entry's lock until the block ends; gives who holds the lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as thread, shop.database.engine.connect() as gate:
        gate.execute(text("SELECT FROM metrics_cache FOR UPDATE"))
        late = thread.submit(cache.refresh, [1])
        until(lambda: shop.count(waiting) == 1)
        yield gate
        gate.commit()
        late.result(60)


@pytest.mark.row("S1.34", on="any")
def test_an_older_write_that_comes_late_does_not_win_over_a_newer_one(shop: LiveShop) -> None:
    cache = MetricsCache(shop.database.engine, shop.database.shop, LONG_S)
    count(shop, likes_and_views(1))
    cache.refresh([1])
    with refresh_held_up(shop, cache) as newer:
        count(shop, likes_and_views(2))
        newer.execute(cache.copy, {"products": [1]})
    assert (in_cache(shop), answer(shop)) == ((3, 3, 2), (3, 3))


def test_a_write_that_was_long_under_way_is_as_old_as_what_it_read(shop: LiveShop) -> None:
    cache = MetricsCache(shop.database.engine, shop.database.shop, LONG_S)
    count(shop, likes_and_views(1))
    cache.refresh([1])
    with refresh_held_up(shop, cache):
        count(shop, likes_and_views(2))
        counted_at = shop.rows("SELECT clock_timestamp()")[0][0]
    ((read_at,),) = shop.rows("SELECT read_at FROM metrics_cache")
    assert in_cache(shop) == (1, 1, 1)
    assert read_at < counted_at


def replay(shop: LiveShop, **which: object) -> int:
    """How many events were applied."""
    answer = shop.call("POST", "/admin/replay", admin=True, json={"group": GROUP, **which})
    return int(answer.json()["applied"])


def test_a_group_that_is_recomputed_from_the_beginning_begins_its_cache_anew(shop: LiveShop) -> None:
    for _ in range(3):
        ids = shop.commit_likes(PRODUCTS, with_pending=False)
        assert replay(shop, eventIds=ids) == PRODUCTS
    shop.write("UPDATE product_metrics SET likes = likes + 7")
    assert (answer(shop), in_cache(shop)) == ((10, 0), (10, 0, 3))
    assert replay(shop, fromBeginning=True) == 3 * PRODUCTS
    assert (answer(shop), in_cache(shop)) == ((3, 0), (3, 0, 1))


def test_a_cache_that_cannot_be_written_stops_neither_the_consumer_nor_the_api(
    shop: LiveShop, caplog: pytest.LogCaptureFixture
) -> None:
    publish(shop, likes_and_views(1))
    consume(shop, 2)
    shop.write("ALTER TABLE metrics_cache ADD CONSTRAINT full_up CHECK (likes < 2)")
    publish(shop, likes_and_views(2))
    consume(shop, 4)
    assert (in_table(shop), in_cache(shop)) == ((3, 3), (1, 1, 1))
    with api_with(shop, metrics_cache_s=0.1) as url:
        until(lambda: answer(shop, url) == (3, 3))
    assert "full_up" in " ".join(str(record.__dict__.get("error")) for record in caplog.records)
