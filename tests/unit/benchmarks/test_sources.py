"""What the sources ask: the same for a seed, hot products as hot as was asked for, likes that change something."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from benchmarks.sources import Ask, catalogue, hot_products, orders, tickets
from core.api.models import OrderRequest, TicketRequest
from core.domain.tickets import plain_phone


def chooser(**hot: float) -> Callable[[], int]:
    return hot_products(random.Random(1), 100, **{"hot_ratio": 0.0, **hot})


SOURCES: dict[str, Callable[[int], Iterator[Ask]]] = {
    "orders": lambda seed: orders(random.Random(seed), chooser(), 0.5),
    "catalogue": lambda seed: catalogue(random.Random(seed), chooser(), 0.5),
    "tickets": lambda seed: tickets(random.Random(seed)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_asks_the_same_and_another_something_else(source: str) -> None:
    first, again, other = (list(islice(SOURCES[source](seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_orders_are_what_the_api_takes_with_a_key_each() -> None:
    for ask in islice(orders(random.Random(1), chooser()), 100):
        assert OrderRequest.model_validate(ask.body).items
        assert (ask.method, ask.path, ask.has_key) == ("POST", "/api/v1/orders", True)


def test_tickets_are_what_the_api_takes_with_a_key_each() -> None:
    for ask in islice(tickets(random.Random(1)), 100):
        assert plain_phone(TicketRequest.model_validate(ask.body).phone.get_secret_value())
        assert (ask.method, ask.path, ask.has_key) == ("POST", "/api/v1/tickets", True)


def test_a_source_likes_a_product_and_then_takes_that_like_back() -> None:
    asked = list(islice(catalogue(random.Random(1), lambda: 7, likes_ratio=1.0), 4))
    assert [(ask.method, ask.path) for ask in asked] == [
        ("POST", "/api/v1/products/7/likes"),
        ("DELETE", "/api/v1/products/7/likes"),
    ] * 2


def test_the_share_of_likes_is_the_one_asked_for() -> None:
    asked = islice(catalogue(random.Random(1), chooser(), likes_ratio=0.3), 10_000)
    # Five standard deviations of a binomial count are 229.
    assert abs(sum("likes" in ask.path for ask in asked) - 3_000) < 229


def test_product_one_gets_its_share_and_the_rest_are_alike() -> None:
    choose = chooser(hot_ratio=0.4)
    counts = Counter(choose() for _ in range(20_000))
    # 0.4 + 0.6 / 100 of them; five standard deviations are 347.
    assert abs(counts[1] - 8_120) < 347
    assert set(counts) == set(range(1, 101))
    assert max(counts[number] for number in range(2, 101)) < 200


def test_by_zipf_a_product_is_chosen_in_proportion_to_one_by_its_number() -> None:
    choose = chooser(zipf=1.0)
    counts = Counter(choose() for _ in range(20_000))
    # 20,000 / (the 100th harmonic number, 5.187) = 3,856 for product 1 and a tenth of it for 10.
    assert abs(counts[1] - 3_856) < 279
    assert abs(counts[10] - 386) < 97
    assert set(counts) <= set(range(1, 101))
