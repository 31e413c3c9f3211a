"""Consuming in batches, on every broker: what a batch really holds, how it is acked, and what its size is worth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic, sleep

import pytest

from ablations.flow import FLOWS
from core.commands.context import envelope_of, new_uuid7
from core.domain.events import ProductViewed, Raised
from core.effects.table import GROUPS
from core.journey import NoProbe
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome
from core.messaging.ports import Delivery, Failure, Subscriber
from testbed import wiring
from tests.mixed_orders import Traffic
from tests.system.shop_threads import Shop, settings_for, shop_on, waiting

GROUP = "product-metrics"
ROUNDS = {1: 60, 100: 1_000, 1_000: 4_000, 3_000: 9_000}
"""Most messages a batch -> messages that wait when the round begins."""
PREFETCH = 6_000
"""Two of the largest batches: the next one comes while one is applied and not yet acked."""

WAITS_S = 0.03


@dataclass
class Watched:
    """A real subscriber, and the sizes of what was received from it and acked to it."""

    inner: Subscriber
    received: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    first_s: float = 0.0
    """When the first came."""

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        found = self.inner.receive(max_messages, timeout_s)
        if found:
            self.first_s = self.first_s or monotonic()
            self.received.append(len(found))
        return found

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked.append(len(deliveries))
        self.inner.ack(deliveries)

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        self.inner.retry(failed, after_s, held)

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        return self.inner.dead_letter(delivery, failure, timeout_s)

    def close(self) -> None:
        self.inner.close()


def views(first_product: int, count: int) -> list[Envelope]:
    """One of each product: keys spread evenly over the lanes."""
    products = range(first_product, first_product + count)
    return [
        envelope_of(
            Raised(str(product), None, ProductViewed(product_id=product, customer_id="c-1")),
            new_uuid7(),
            datetime.now(UTC),
            "r-1",
        )
        for product in products
    ]


@pytest.mark.row("S1.25")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_batches_up_to_3000_are_filled_from_what_waits_acked_once_each_and_much_quicker_than_one_by_one(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    rates: dict[int, float] = {}
    with shop_on(settings_for(request, broker, database, groups=GROUP), []) as shop:
        publisher, subscriber = shop.broker.publisher(), shop.broker.subscriber(GROUP, PREFETCH)
        published = 0
        try:
            for batch, count in ROUNDS.items():
                waiting = views(published + 1, count)
                assert all(outcome.is_confirmed for outcome in publisher.publish(waiting, 60.0))
                published += count
                watched, took_s = work_off(shop, subscriber, GROUP, count, batch=batch)
                rates[batch] = count / took_s
                assert watched.acked == watched.received, "each batch is acked whole, by one call"
                assert batch / 2 < max(watched.received) <= batch, watched.received
            assert shop.rows("SELECT count(*), sum(views) FROM product_metrics") == [(published, published)]
        finally:
            publisher.close()
            subscriber.close()
    print("messages per second by batch:", {batch: round(rate) for batch, rate in rates.items()})
    assert min(rates[100], rates[1_000], rates[3_000]) > 4 * rates[1], rates


@pytest.mark.row("S2.20")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_a_pool_of_threads_is_quicker_than_one_by_one_and_breaks_the_order_of_keys_and_a_batch_is_quicker_and_does_not(
    request: pytest.FixtureRequest, broker: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More members, the other way to more rate, are in tests/contract/test_behaviours.py."""
    group, found = "notification-service", dict[str, tuple[int, int]]()
    one_by_one, a_pool, a_batch = {"batch": 1}, {"batch": 100, "consumer_workers": 8}, {"batch": 100}
    # As for a slow neighbour: what threads are good for.
    monkeypatch.setitem(FLOWS, "saga", {**GROUPS, group: waiting(group, partial(sleep, WAITS_S))})  # type: ignore[arg-type]
    with shop_on(settings_for(request, broker, database, groups=group), []) as shop:
        publisher, subscriber = shop.broker.publisher(), shop.broker.subscriber(group, PREFETCH)
        traffic = Traffic(seed=1)
        try:
            for name, settings in (("one by one", one_by_one), ("a pool", a_pool), ("a batch", a_batch)):
                # Each order's events one behind the other.
                lives = [e for number in range(25) for e in traffic.order(5 * number) if e.type in GROUPS[group].takes]
                assert all(outcome.is_confirmed for outcome in publisher.publish(lives, 60.0))
                _, took_s = work_off(shop, subscriber, group, len(lives), **settings)
                found[name] = (round(len(lives) / took_s), out_of_order(shop, group, lives))
        finally:
            publisher.close()
            subscriber.close()
        assert shop.rows("SELECT count(*), count(DISTINCT event_id) FROM inbox") == [(3 * len(lives),) * 2]
    print("messages per second, and out of order:", found)
    assert (found["one by one"][1], found["a batch"][1]) == (0, 0)
    assert found["a pool"][1] > 0
    assert found["one by one"][0] < found["a pool"][0] < found["a batch"][0]


def out_of_order(shop: Shop, group: str, published: Sequence[Envelope]) -> int:
    """How often an event was applied after a later one of its aggregate."""
    known, newest, count = {e.id: e for e in published}, dict[tuple[str, str], int](), 0
    sql = "SELECT CAST(event_id AS text) FROM effect WHERE consumer_group = :group ORDER BY applied_no"
    for (id_,) in shop.rows(sql, group=group):
        if id_ in known:
            one = known[id_]
            before = newest.get((one.source, one.key), 0)
            count += (one.sequence or 0) < before
            newest[one.source, one.key] = max(before, one.sequence or 0)
    return count


def work_off(shop: Shop, subscriber: Subscriber, group: str, count: int, **settings: int) -> tuple[Watched, float]:
    """What waits, by a worker of these settings; the seconds from the first hand-over to the last ack."""
    watched, watch = Watched(subscriber), wiring.Watch(None, NoProbe())
    chosen = shop.settings.model_copy(update=settings)
    worker = wiring.worker(chosen, shop.database, watched, group, watch, shop.context.sink)
    give_up_at = monotonic() + 60
    while sum(watched.acked) < count:
        worker.step()
        assert monotonic() < give_up_at, f"{sum(watched.acked)} of {count} came"
    return watched, monotonic() - watched.first_s
