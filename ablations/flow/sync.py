"""flow=sync (S0.1, S0.3): the request for an order calls five services one after the other before it is answered.

The services are simulated: each takes its time, and none has an effect of its own; the groups keep the books as ever,
so that only the answer is slower. Predicted: an answer takes 1,150 ms and the shop's own time, and the order fails
(503) when any of the five is away, the mail as well as the payment. No crash point is needed.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from core.api.problems import Problem
from core.commands.context import Context
from core.commands.orders import CreateOrder, create_order
from core.commands.requests import Answer, Ask


class Service(NamedTuple):
    name: str
    takes_s: float


FIVE = (
    Service("stock", 0.050),
    Service("payment", 0.200),
    Service("e-mail", 0.500),
    Service("push", 0.300),
    Service("analytics", 0.100),
)


class SyncOrders:
    """In place of `create_order`."""

    def __init__(
        self,
        services: Sequence[Service] = FIVE,
        away: frozenset[str] = frozenset(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`away`: names of services that do not answer."""
        self._services = services
        self._away = away
        self._sleep = sleep

    def __call__(self, context: Context, command: CreateOrder, correlation_id: str, ask: Ask | None) -> Answer:
        for service in self._services:
            self._sleep(service.takes_s)
            if service.name in self._away:
                raise Problem(503, f"The service for {service.name} does not answer; there is no order.")
        return create_order(context, command, correlation_id, ask)
