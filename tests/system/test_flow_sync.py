"""flow=sync: an order that waits for five services takes the sum of their times, and fails with any one of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import monotonic, sleep

import pytest
import requests

from ablations.flow.sync import FIVE, SyncOrders
from core.api.app import Deps, create_app
from core.commands.context import Context
from core.outbox.rows import OutboxSink
from tests.system.api_server import TOKENS, Api, api_on, problem_of, served

ANSWERS = 5


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


@dataclass
class RealClock:
    """Sleeps, and keeps how long that took."""

    took_s: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.took_s.append(timed_s(lambda: sleep(seconds)))


def timed_s(work: Callable[[], object]) -> float:
    start_s = monotonic()
    work()
    return monotonic() - start_s


@contextmanager
def in_turn(api: Api, clock: Callable[[float], None], away: frozenset[str] = frozenset()) -> Iterator[None]:
    """Orders are synchronous."""
    context = Context(api.engine, api.shop, OutboxSink(api.tables))
    with served(create_app(Deps(context, TOKENS, create_order=SyncOrders(FIVE, away, clock)))) as api.url:
        yield


def sync_order(api: Api, clock: Clock, away: frozenset[str] = frozenset()) -> requests.Response:
    with in_turn(api, clock, away):
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


@pytest.mark.row("S0.1")
def test_an_answer_takes_the_five_times_and_what_the_order_itself_costs(api: Api) -> None:
    api.post()
    own_s = median(timed_s(api.post) for _ in range(ANSWERS))
    clock = RealClock()
    with in_turn(api, clock):
        took_s = [timed_s(api.post) for _ in range(ANSWERS)]
    parts_s = {each.name: median(clock.took_s[at :: len(FIVE)]) for at, each in enumerate(FIVE)}
    sum_s = sum(each.takes_s for each in FIVE)
    print("".join(f"{name:>10} {1000 * part_s:6.0f} ms\n" for name, part_s in parts_s.items()))
    print(f"    answer {1000 * median(took_s):6.0f} ms, in event mode {1000 * own_s:.0f} ms")
    assert all(parts_s[each.name] >= each.takes_s for each in FIVE)
    assert sum_s + own_s / 4 < median(took_s) < 1.25 * sum_s + 4 * own_s


@pytest.mark.row("S0.3", "S2.19")
@pytest.mark.parametrize("service", [service.name for service in FIVE])
def test_a_synchronous_order_fails_with_any_of_its_services_and_nothing_is_written(api: Api, service: str) -> None:
    problem = problem_of(sync_order(api, Clock(), frozenset({service})), 503)
    assert service in problem["detail"]
    assert api.written() == (0, 0, 0, 0, 0)
