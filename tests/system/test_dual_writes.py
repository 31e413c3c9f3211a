"""Publishing beside the database instead of through the outbox: what a crash, a rollback and a broker that is away do.

Each strategy meets all three on the same shop; what a group was told is compared with the orders that there are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError

from core.commands.orders import cancel_order, confirm_order
from core.domain.rules import UnknownThing
from core.journey import NoProbe, Probe, Step
from testbed import wiring
from testbed.settings import Settings
from tests.system.shop_threads import Shop, settings_for, shop_on

GROUP = "notification-service"
NOBODY = {"kafka_bootstrap_servers": "127.0.0.1:1", "rabbitmq_url": "amqp://guest:guest@127.0.0.1:1/"}

REFUSED_AT_THE_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not at the commit'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse()"""


class Killed(BaseException):
    """Not an Exception: nothing may catch it, as nothing can catch SIGKILL."""


class DiesAt:
    def __init__(self, step: Step) -> None:
        self._step = step

    def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
        if step is self._step:
            raise Killed


@contextmanager
def publishing(shop: Shop, settings: Settings, probe: Probe | None = None) -> Iterator[Shop]:
    """The shop as a process of these settings sees it: its own way to publish, perhaps its own broker."""
    sink = wiring.event_sink(settings, shop.database, wiring.connect_broker(settings), probe or NoProbe())
    try:
        yield replace(shop, context=replace(shop.context, sink=sink))
    finally:
        sink.close()


def told(shop: Shop) -> set[str]:
    """Ids of the events that a customer was notified of."""
    return {event_id for (event_id,) in shop.rows("SELECT CAST(event_id AS text) FROM notification")}


def created(shop: Shop) -> dict[str, str]:
    """Order id -> id of its OrderCreated, for the orders that there are."""
    sql = "SELECT aggregate_id, CAST(event_id AS text) FROM event WHERE event_type = 'OrderCreated'"
    return {order: event for order, event in shop.rows(sql)}


def what_became_of(shop: Shop, publish: str, patch: pytest.MonkeyPatch) -> tuple[set[str], int]:
    """Which orders nobody was told of, and how many that do not exist somebody was told of."""
    settings = shop.settings.model_copy(update={"seams": {"publish": publish}})
    before, told_before = created(shop), told(shop)
    with publishing(shop, settings.model_copy(update=NOBODY)) as cut_off, patch.context() as impatient:
        impatient.setattr("ablations.publish.direct.TIMEOUT_S", 0.3)
        away = cut_off.order()
    with publishing(shop, settings, DiesAt(Step.COMMITTED)) as doomed, pytest.raises(Killed):
        doomed.order()
    (died,) = created(shop).keys() - before.keys() - {away}
    with publishing(shop, settings) as well:
        shop.change(REFUSED_AT_THE_COMMIT)
        with pytest.raises(DBAPIError, match="not at the commit"):
            well.order()
        shop.change("DROP FUNCTION refuse CASCADE")
        calm = well.order()
    orders = {"broker away": away, "died after the commit": died, "calm": calm}
    events = created(shop)
    assert events.keys() - before.keys() == set(orders.values())
    shop.wait(lambda: events[calm] in told(shop))
    admin = shop.broker.admin()
    shop.wait(lambda: shop.rows("SELECT count(*) FROM pending") == [(0,)])
    shop.wait(lambda: sum(lag.lag_messages for lag in admin.lag(GROUP).values()) == 0)
    admin.close()
    new = told(shop) - told_before
    return {case for case, order in orders.items() if events[order] not in new}, len(new - set(events.values()))


@pytest.mark.row("S0.23", "S0.24", "S2.11", "S2.12", "S2.13", "S3.14")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_what_is_published_beside_the_database_is_lost_or_tells_of_no_order_and_the_outbox_does_neither(
    request: pytest.FixtureRequest,
    broker: str,
    database: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with shop_on(settings_for(request, broker, database), [GROUP]) as shop:
        assert what_became_of(shop, "outbox", monkeypatch) == (set(), 0)
        assert "event publish failed" not in caplog.messages
        assert what_became_of(shop, "inline", monkeypatch) == ({"broker away"}, 1)
        assert caplog.messages.count("event publish failed") == 1
        assert what_became_of(shop, "after_commit", monkeypatch) == ({"broker away", "died after the commit"}, 0)
        assert caplog.messages.count("event publish failed") == 2
        with pytest.raises(UnknownThing):
            cancel_order(shop.context, uuid4(), "c-1", "r-1", "changed my mind", "c-1")
        with pytest.raises(UnknownThing):
            confirm_order(shop.context, uuid4(), "c-1", "r-1")
