"""Each wrong way to count facts of one product at once loses what its docstring predicts; the default loses nothing."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from ablations.metrics import METRICS
from ablations.metrics.locks import Locks
from core.commands.context import envelope_of, new_uuid7
from core.domain.events import LikeChanged, ProductSold, ProductViewed, Raised
from core.inbox.handlers import GroupHandler
from core.inbox.writing import GroupWriting
from core.messaging.envelope import Envelope
from tests.system.api_server import Api, api_on
from tests.waiting import until

PRODUCT = 3
GROUP = "product-metrics"


@pytest.fixture
def shop(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        yield running


def like(customer: int = 1) -> Envelope:
    event = LikeChanged(product_id=PRODUCT, customer_id=f"c-{customer}", delta=1)
    return envelope_of(Raised(str(PRODUCT), None, event), new_uuid7(), datetime.now(UTC), None)


def deliver(shop: Api, handler: GroupHandler, envelopes: Sequence[Envelope]) -> None:
    """With the inbox, as the worker does."""
    with shop.engine.begin() as connection:
        GroupWriting(shop.tables, GROUP, handler).write(connection, envelopes)


def likes(shop: Api) -> int:
    return int(shop.call("GET", f"/api/v1/products/{PRODUCT}/metrics").json()["likes"])


@pytest.mark.parametrize("value", METRICS)
def test_every_way_to_count_counts_right_alone(shop: Api, value: str) -> None:
    facts = [
        LikeChanged(product_id=PRODUCT, customer_id="c-1", delta=1),
        ProductViewed(product_id=PRODUCT, customer_id="c-1"),
        LikeChanged(product_id=PRODUCT, customer_id="c-1", delta=-1),
        ProductViewed(product_id=PRODUCT, customer_id="c-2"),
        ProductSold(product_id=PRODUCT, order_id="o-1", quantity=4, amount=0),  # type: ignore[arg-type]
    ]
    raised = [Raised(str(PRODUCT), None, fact) for fact in facts]
    envelopes = [envelope_of(one, new_uuid7(), datetime.now(UTC), None) for one in raised]
    deliver(shop, METRICS[value](shop.shop), envelopes)
    body = shop.call("GET", f"/api/v1/products/{PRODUCT}/metrics").json()
    assert body == {"productId": PRODUCT, "likes": 0, "views": 2, "sales": 4}


@pytest.mark.row("S1.31")
@pytest.mark.parametrize(("value", "missing"), [("trylock_skip", 63), ("atomic", 0)])
def test_of_64_threads_that_like_one_product_those_that_skip_a_lock_leave_likes_out(
    shop: Api, value: str, missing: int
) -> None:
    handler = METRICS[value](shop.shop)
    deliver(shop, handler, [like()])
    with ThreadPoolExecutor(64) as threads, shop.engine.connect() as gate:
        # The first to get the product's lock waits here, in the database, until the others have tried for 100 ms.
        gate.execute(text("SELECT FROM product_metrics FOR UPDATE"))
        given = [threads.submit(deliver, shop, handler, [like(customer)]) for customer in range(64)]
        until(lambda: sum(one.done() for one in given) == missing, timeout_s=60)
        gate.rollback()
        for one in given:
            one.result(60)
    assert shop.count("inbox") == 1 + 64, "every like counts as handled"
    assert likes(shop) == 1 + 64 - missing


@pytest.mark.row("S1.32")
@pytest.mark.parametrize(("value", "lost"), [("read_modify_write", 1), ("atomic", 0)])
def test_a_lock_in_memory_does_not_keep_a_second_process_from_writing_over_a_count(
    shop: Api, value: str, lost: int
) -> None:
    first, second = (METRICS[value](shop.shop) for _ in range(2))  # each process has locks of its own
    deliver(shop, first, [like()])
    with ThreadPoolExecutor(1) as thread, shop.engine.connect() as connection:
        GroupWriting(shop.tables, GROUP, first).write(connection, [like()])
        other = thread.submit(deliver, shop, second, [like()])
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        until(lambda: _count(shop, waiting) == 1)
        connection.commit()
        other.result(20)
    assert likes(shop) == 3 - lost


def _count(shop: Api, sql: str) -> int:
    with shop.engine.connect() as connection:
        return int(connection.execute(text(sql)).scalar_one())


@pytest.mark.row("S1.33")
def test_a_lock_that_was_dropped_as_free_has_a_holder_beside_that_of_the_next_one() -> None:
    locks = Locks()
    handed_out = locks.of(PRODUCT)
    assert locks.of(PRODUCT) is handed_out
    assert locks.drop_free() == 1
    holders = [handed_out.acquire(blocking=False), locks.of(PRODUCT).acquire(blocking=False)]
    assert holders == [True, True]
    assert locks.drop_free() == 0, "a lock that is held stays"
