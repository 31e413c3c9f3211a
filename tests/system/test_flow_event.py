"""flow=saga, the default: an order is answered before any of the five services has done its part, or with one away.

The five take the times that `flow=sync` adds up (`test_flow_sync.py`); a gate holds their work back until the answer
is there. A sixth group reacts too, without a line changed in what takes orders.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import quantiles
from threading import Event
from time import monotonic, sleep

import pytest

from ablations.flow import FLOWS
from ablations.flow.sync import FIVE
from core.effects.gateway import Charge
from core.effects.outside_world import Delivery, OutsideError, Service
from core.effects.table import GROUPS, Group
from core.inbox.handlers import GroupHandler, HandlerResult
from core.storage.shop import ShopTables
from servers.outside_world.behaviour import Behaviour, Behaviours
from tests.recorded_world import RecordedWorld
from tests.system.shop_threads import STOCK_EACH, Shop, settings_for, shop_on, waiting
from tests.system.test_groups import api_of, call, number, owes_nothing

TAKES_S = {service.name: service.takes_s for service in FIVE}
IN_TURN_S = sum(TAKES_S.values())
SIXTH = "gift-service"
BODY = {"items": [{"productId": 1, "quantity": 1, "price": 100.00}]}
ORDERS = 10
BROKERS = ("kafka", "rabbitmq")


class SlowWorld(RecordedWorld):
    """Behind the gate; each call takes its service's time."""

    def __init__(self, record: Path, gate: Event) -> None:
        super().__init__(record)
        self.gate = gate

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        work(self.gate, TAKES_S["payment"])
        return super().charge(idempotency_key, order_id, amount, card_type)

    def deliver(self, service: Service, deliveries: Sequence[Delivery]) -> Sequence[OutsideError | None]:
        work(self.gate, {"mails": TAKES_S["e-mail"], "pushes": TAKES_S["push"]}.get(service, 0.0))
        return super().deliver(service, deliveries)


def work(gate: Event, takes_s: float) -> None:
    assert gate.wait(60)
    sleep(takes_s)


def give_gifts(shop: ShopTables) -> GroupHandler:
    return lambda connection, envelopes: HandlerResult(["gift_given"] * len(envelopes))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    gate = Event()
    slowed = {
        "inventory-service": waiting("inventory-service", partial(work, gate, TAKES_S["stock"])),
        "analytics-service": waiting("analytics-service", partial(work, gate, TAKES_S["analytics"])),
        SIXTH: Group(frozenset({"OrderCreated"}), give_gifts, 100),
    }
    monkeypatch.setitem(FLOWS, "saga", {**GROUPS, **slowed})  # type: ignore[arg-type]
    yield gate
    gate.set()


def done_by_the_five(shop: Shop, world: RecordedWorld) -> dict[str, int]:
    return {
        "stock": STOCK_EACH - shop.stock_of(1),
        "payment": len(world.done("payments")),
        "e-mail": sum(one.body["type"] == "ORDER_CONFIRMATION" for one in world.done("mails")),
        "push": sum(one.body["type"] == "ORDER_CREATED" for one in world.done("pushes")),
        "analytics": number(
            shop, "SELECT coalesce(sum(events), 0) FROM analytics_minute WHERE event_type = 'OrderCreated'"
        ),
    }


@pytest.mark.row("S0.2", "S0.3")
@pytest.mark.parametrize("broker", BROKERS)
def test_an_order_is_answered_before_the_five_react_and_the_mail_follows_when_its_server_is_back(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path, gate: Event
) -> None:
    world = SlowWorld(tmp_path / "calls.ndjson", gate)
    with shop_on(settings_for(request, broker, database), world=world) as shop, api_of(shop) as url:
        place = partial(call, shop, "POST", f"{url}/api/orders", "c-1", json=BODY)
        try:
            took_s = []
            for _ in range(ORDERS):
                asked_s = monotonic()
                assert place()["status"] == "PENDING"
                took_s.append(monotonic() - asked_s)
            none, all_ = dict.fromkeys(TAKES_S, 0), dict.fromkeys(TAKES_S, ORDERS)
            assert done_by_the_five(shop, world) == none
            assert number(shop, "SELECT count(*) FROM event WHERE event_type = 'OrderCreated'") == ORDERS
            opened_s = monotonic()
        finally:
            gate.set()
        shop.wait(lambda: done_by_the_five(shop, world) == all_)
        # What the answer no longer takes is not gone: the fifth effect comes that much later.
        fifth_s = monotonic() - opened_s
        p50_s, p99_s = (quantiles(took_s, n=100, method="inclusive")[at] for at in (49, 98))
        print(f"{broker}: answer p50 {1000 * p50_s:.0f} ms, p99 {1000 * p99_s:.0f} ms, in turn {1000 * IN_TURN_S:.0f}; "
              f"the fifth effect of {ORDERS} orders after {fifth_s:.1f} s")  # fmt: skip
        assert p50_s < IN_TURN_S / 2
        assert fifth_s >= max(TAKES_S.values())

        shop.wait(lambda: owes_nothing(shop))
        world.world.change(Behaviours(mails=Behaviour(failure_ratio=1.0)))
        order_id = place()["id"]
        all_but_mail = {name: ORDERS + (name != "e-mail") for name in TAKES_S}
        shop.wait(lambda: done_by_the_five(shop, world) == all_but_mail and shop.status_of(order_id) == "PAID")
        shop.wait(lambda: any(one.outcome == "unavailable" for one in world.calls()))
        world.world.change(Behaviours(mails=Behaviour()))
        shop.wait(lambda: done_by_the_five(shop, world) == dict.fromkeys(TAKES_S, ORDERS + 1))
        sql = "SELECT count(*) FROM effect WHERE consumer_group = :group AND effect = 'gift_given'"
        shop.wait(lambda: shop.rows(sql, group=SIXTH) == [(ORDERS + 1,)])
