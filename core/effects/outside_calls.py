"""How a group calls the world outside after its commit and before its ack; what it reserves is in its handler."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Table

from core.effects.outside_world import Delivery, OutsideWorld, Service
from core.inbox.outside import CallAll, Row, Settle
from core.storage.shop import ShopTables


class OutsideCalls(NamedTuple):
    table: Callable[[ShopTables], Table]
    """Where its handler reserves the calls."""
    call: Callable[[OutsideWorld], CallAll]
    at_once: int = 100
    """Rows that `call` is handed at most."""
    settle: Callable[[ShopTables], Settle] | None = None
    """What follows from the answers; none: a call that was made is all there is to it."""


def deliveries(
    service: Callable[[Row], Service], content: Callable[[Row], Mapping[str, Any]]
) -> Callable[[OutsideWorld], CallAll]:
    """Deliver each row's content to its service, with one request a service."""

    def to(world: OutsideWorld) -> CallAll:
        def call_all(rows: Sequence[Row]) -> list[Any]:
            by_service: dict[Service, list[int]] = {}
            for place, row in enumerate(rows):
                by_service.setdefault(service(row), []).append(place)
            answers: list[Any] = [None] * len(rows)
            for name, places in by_service.items():
                sent = [Delivery(rows[place]["idempotency_key"], content(rows[place])) for place in places]
                for place, answer in zip(places, world.deliver(name, sent), strict=True):
                    answers[place] = answer
            return answers

        return call_all

    return to
