"""What a source of load asks of the API, one request after another; pure and seeded. When: `pacer`; sending: Locust."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Ask(NamedTuple):
    method: str
    path: str
    name: str
    """The line of Locust's statistics that it counts in."""
    body: dict[str, Any] | None = None
    has_key: bool = False
    """Sent with an Idempotency-Key of its own: it stands at the client boundary of the history."""


def hot_products(choices: random.Random, products: int, hot_ratio: float, zipf: float = 0.0) -> Callable[[], int]:
    """Chooses products 1 to `products`, the lower the hotter.

    `hot_ratio`: that share of the choices is product 1. `zipf`: of the rest, product n is chosen in proportion to
    n ** -zipf; 0: each alike.
    """
    weights = list(itertools.accumulate(number**-zipf for number in range(1, products + 1))) if zipf else []
    numbers = range(1, products + 1)

    def choose() -> int:
        if hot_ratio and choices.random() < hot_ratio:
            return 1
        return choices.choices(numbers, cum_weights=weights)[0] if zipf else choices.randint(1, products)

    return choose


def orders(choices: random.Random, product: Callable[[], int], views_ratio: float = 0.0) -> Iterator[Ask]:
    """Orders of one to three lines; `views_ratio` of the requests look at a product instead."""
    while True:
        if views_ratio and choices.random() < views_ratio:
            yield _view(product())
            continue
        lines = [
            {"productId": product(), "quantity": choices.randint(1, 3)} for _ in range(choices.choice((1, 1, 1, 2, 3)))
        ]
        body = {"items": lines, "shippingAddress": "1 Test Street"}
        yield Ask("POST", "/api/v1/orders", "POST /api/v1/orders", body, has_key=True)


def catalogue(choices: random.Random, product: Callable[[], int], likes_ratio: float) -> Iterator[Ask]:
    """Views, and `likes_ratio` likes. A like is one a customer, so the second of a product takes the first back.

    None has an idempotency key, so none stands at the client boundary: their events are accounted for instead.
    """
    liked: set[int] = set()
    while True:
        if choices.random() >= likes_ratio:
            yield _view(product())
            continue
        number = product()
        method = "DELETE" if number in liked else "POST"
        liked ^= {number}
        yield Ask(method, f"/api/v1/products/{number}/likes", f"{method} /api/v1/products/{{id}}/likes")


def tickets(choices: random.Random) -> Iterator[Ask]:
    """Applications for tickets of ten shows, each with a phone number of its own."""
    while True:
        body = {"show": f"Show {choices.randint(1, 10)}", "phone": f"+82 10-{choices.randrange(10**8):08d}"}
        yield Ask("POST", "/api/v1/tickets", "POST /api/v1/tickets", body, has_key=True)


def _view(product: int) -> Ask:
    return Ask("GET", f"/api/v1/products/{product}", "GET /api/v1/products/{id}")
