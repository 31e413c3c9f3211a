"""flow=sync: an order that waits for five services takes the sum of their times, and fails with any one of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import requests

from ablations.flow.sync import FIVE, SyncOrders
from core.api.app import Deps, create_app
from core.commands.context import Context
from core.outbox.rows import OutboxSink
from tests.system.api_server import TOKENS, Api, api_on, problem_of, served


@dataclass
class Clock:
    """Time that passes only where someone sleeps."""

    slept_s: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.slept_s.append(seconds)


@pytest.fixture
def api(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        yield running


def sync_order(api: Api, clock: Clock, away: frozenset[str] = frozenset()) -> requests.Response:
    context = Context(api.engine, api.shop, OutboxSink(api.tables))
    with served(create_app(Deps(context, TOKENS, create_order=SyncOrders(FIVE, away, clock)))) as api.url:
        return api.post()


@pytest.mark.row("S0.1", "S2.19")
def test_a_synchronous_order_is_answered_after_all_five_services_in_turn(api: Api) -> None:
    clock = Clock()
    assert api.post().status_code == 201
    assert clock.slept_s == []
    assert sync_order(api, clock).status_code == 201
    assert clock.slept_s == [0.05, 0.2, 0.5, 0.3, 0.1]
    assert sum(clock.slept_s) == pytest.approx(1.15)
    assert api.count("orders") == 2


@pytest.mark.row("S0.3", "S2.19")
@pytest.mark.parametrize("service", [service.name for service in FIVE])
def test_a_synchronous_order_fails_with_any_of_its_services_and_nothing_is_written(api: Api, service: str) -> None:
    problem = problem_of(sync_order(api, Clock(), frozenset({service})), 503)
    assert service in problem["detail"]
    assert api.written() == (0, 0, 0, 0, 0)
