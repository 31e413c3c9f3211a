"""The reacting groups on every broker: each sees everything, does it once, and catches up after it was away."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
import requests

from core.api.app import create_app
from core.commands.context import new_uuid7
from core.domain.events import from_json
from core.effects.table import GROUPS
from core.journey import NoProbe
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery
from core.messaging.topology import DEAD_LETTER_GROUP
from core.storage.outside_calls import count_reserved
from servers.outside_world.behaviour import Behaviours
from testbed import wiring
from tests.mixed_orders import Traffic, mixed
from tests.recorded_world import RecordedWorld
from tests.system.api_server import served
from tests.system.shop_threads import Shop, settings_for, shop_on

BROKERS = ("memory", "kafka", "rabbitmq")
AWAY = "notification-service"
AT_WORK = ("email-service", "analytics-service", "data-platform", "points-coupons", "product-metrics", "read-model")
ORDERS = 100
SOMETIMES_AWAY = {"failure_ratio": 0.05}
PHONE_DIGITS = "1012345678"
SOON_S = 5.0
"""Within which a customer reads of an order, as article S2 has it."""


def publish(shop: Shop, envelopes: Sequence[Envelope]) -> None:
    """Straight to the broker, as a relay that repeats itself would."""
    publisher = shop.broker.publisher()
    assert all(outcome.is_confirmed for outcome in publisher.publish(envelopes, 30.0))
    publisher.close()


def taken_by(group: str, envelopes: Sequence[Envelope]) -> list[Envelope]:
    return [envelope for envelope in envelopes if envelope.type in GROUPS[group].takes]


def has_handled(shop: Shop, group: str, count: int) -> bool:
    return shop.rows("SELECT count(*) FROM inbox WHERE consumer_group = :g", g=group) == [(count,)]


def owes_nothing(shop: Shop) -> bool:
    with shop.database.engine.connect() as connection:
        return count_reserved(connection, shop.database.shop.outside_calls) == 0


def number(shop: Shop, sql: str) -> int:
    return int(shop.rows(sql)[0][0])


@contextmanager
def api_of(shop: Shop) -> Iterator[str]:
    deps = wiring.api_deps(shop.settings, shop.database, shop.context.sink, NoProbe())  # type: ignore[arg-type]
    with served(create_app(deps)) as url:
        yield url


def call(shop: Shop, method: str, url: str, customer: str, **more: Any) -> Any:
    token = wiring.development_token(shop.settings, customer)
    answer = requests.request(method, url, headers={"Authorization": f"Bearer {token}"}, timeout=60, **more)
    assert answer.ok, answer.text
    return answer.json()


@pytest.mark.row(
    "S0.8", "S0.17", "S0.18", "S1.8", "S1.9", "S1.10", "S1.28", "S1.29", "S1.30", "S2.6", "S2.10", "S2.14", "S3.35"
)
@pytest.mark.parametrize("broker", BROKERS)
def test_each_group_does_all_its_events_once_although_they_come_twice_and_one_group_was_away(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    traffic = mixed(orders=ORDERS, tickets=40)
    world = RecordedWorld(
        tmp_path / "calls.ndjson",
        1,
        records=SOMETIMES_AWAY,
        pushes=SOMETIMES_AWAY,
        mails={"timeout_after_work_ratio": 0.05},
    )
    with shop_on(settings_for(request, broker, database), AT_WORK, world) as shop:
        for _ in range(2):
            publish(shop, traffic)
        for group in AT_WORK:
            shop.wait(lambda group=group: has_handled(shop, group, len(taken_by(group, traffic))))
        assert number(shop, "SELECT count(*) FROM notification") == 0
        shop.consume([AWAY])
        shop.wait(lambda: has_handled(shop, AWAY, len(taken_by(AWAY, traffic))))
        shop.wait(lambda: owes_nothing(shop))
        admin = shop.broker.admin()
        for group in (*AT_WORK, AWAY):
            shop.wait(lambda group=group: sum(lag.lag_messages for lag in admin.lag(group).values()) == 0)
        admin.close()
        _is_the_recount(shop, world, traffic)


def _is_the_recount(shop: Shop, world: RecordedWorld, traffic: Sequence[Envelope]) -> None:
    types = Counter(envelope.type for envelope in traffic)
    repeated = "SELECT event_id FROM effect GROUP BY consumer_group, event_id, effect HAVING count(*) > 1"
    assert shop.rows(repeated) == []
    assert shop.rows("SELECT consumer_group, event_id, reason FROM inbox WHERE outcome = 'ignored'") == []
    assert number(shop, "SELECT count(*) FROM orders") == 0, "whoever asked for an order here would have found none"
    assert number(shop, "SELECT count(*) FROM email_sent_record") == len(taken_by("email-service", traffic))
    assert number(shop, "SELECT count(*) FROM notification") == len(taken_by(AWAY, traffic)) + types["OrderConfirmed"]
    assert number(shop, "SELECT sum(events) FROM analytics_minute") == len(taken_by("analytics-service", traffic))
    created: list[Any] = [from_json(e.type, 1, e.data) for e in traffic if e.type == "OrderCreated"]
    assert number(shop, "SELECT sum(amount) FROM analytics_minute WHERE event_type = 'OrderCreated'") == int(
        sum(order.total_amount for order in created)
    )
    told = Counter(dict(shop.rows("SELECT type, count(*) FROM notification WHERE channel = 'PUSH' GROUP BY type")))
    for name, event_type in (("CREATED", "OrderCreated"), ("PAID", "OrderPaid"), ("CANCELLED", "OrderCancelled")):
        assert told[f"ORDER_{name}"] == types[event_type]
    fed = Counter(call.body["kind"] for call in world.done("records"))
    assert (fed["ORDER_CONFIRMED"], fed["ORDER_CANCELLED"]) == (types["OrderConfirmed"], types["OrderCancelled"])
    assert number(shop, "SELECT count(*) FROM platform_record") == len(taken_by("data-platform", traffic))
    assert number(shop, "SELECT count(*) FROM coupon") == types["TicketApplied"]
    assert number(shop, "SELECT sum(points) FROM points_account") == sum(_points(envelope) for envelope in traffic)
    assert shop.rows("SELECT sum(sales), sum(likes), sum(views) FROM product_metrics") == [
        (2 * types["ProductSold"], types["LikeChanged"], types["ProductViewed"])
    ]
    ended = Counter(dict(shop.rows("SELECT status, count(*) FROM order_read_model GROUP BY status")))
    assert (ended.total(), ended["CANCELLED"]) == (ORDERS, types["OrderCancelled"])
    delivered = {"email_sent_record": ["mails"], "notification": ["pushes", "sms"], "platform_record": ["records"]}
    for table, kinds in delivered.items():
        keys = [key for (key,) in shop.rows(f"SELECT idempotency_key FROM {table}")]
        assert Counter(call.key for call in world.done(*kinds)) == Counter(keys)
    assert len(world.done("sms")) == types["OrderConfirmed"]


def _points(envelope: Envelope) -> int:
    if envelope.type == "TicketApplied":
        return 100
    event: Any = from_json(envelope.type, 1, envelope.data)
    return int(event.amount) // 10 if envelope.type == "PaymentCompleted" else 0


@pytest.mark.row("S1.9", "S3.18")
@pytest.mark.parametrize("broker", BROKERS)
def test_where_a_failed_call_is_only_logged_what_it_should_have_told_is_lost(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    """The test above is its opposite: calls that fail are made again there, and nothing is lost."""
    world = RecordedWorld(tmp_path / "calls.ndjson", 1, pushes={"failure_ratio": 0.3}, records={"failure_ratio": 0.3})
    settings = settings_for(request, broker, database, seams={"on_error": "log-only"})
    traffic, groups = mixed(orders=40, tickets=0), (AWAY, "data-platform")
    with shop_on(settings, groups, world) as shop:
        publish(shop, traffic)
        for group in groups:
            shop.wait(lambda group=group: has_handled(shop, group, len(taken_by(group, traffic))))
        shop.wait(lambda: owes_nothing(shop))
        assert 0 < len(world.done("records")) < len(taken_by("data-platform", traffic))
        assert 0 < len(world.done("pushes")) < len(taken_by(AWAY, traffic))
        assert len(world.done("sms")) == Counter(envelope.type for envelope in traffic)["OrderConfirmed"]


@pytest.mark.row("S2.3", "S2.8", "S2.9", "S2.19", "S2.23", "S2.24")
@pytest.mark.parametrize("broker", BROKERS)
def test_an_order_is_one_notification_of_its_customer_soon_after_the_answer(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    # The notifier is down when the order is made.
    world = RecordedWorld(tmp_path / "calls.ndjson", pushes={"failure_ratio": 1.0})
    with shop_on(settings_for(request, broker, database), [AWAY], world) as shop, api_of(shop) as url:

        def told(customer: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = call(shop, "GET", f"{url}/api/notifications", customer)["notifications"]
            return found

        def told_after_s(customer: str, start: str) -> float:
            """By what the rows themselves say: how often this test looks does not count."""
            (notification,) = told(customer)
            return (datetime.fromisoformat(notification["createdAt"]) - datetime.fromisoformat(start)).total_seconds()

        # Ordered while the group is still joining: once somebody was told of it, the group is at work.
        body = {"items": [{"productId": 1, "quantity": 2, "price": 100.00}]}
        call(shop, "POST", f"{url}/api/orders", "early-1", json=body)
        shop.wait(lambda: len(told("early-1")) > 0)
        assert told("reader-1") == []
        order = call(shop, "POST", f"{url}/api/orders", "reader-1", json=body)
        shop.wait(lambda: len(told("reader-1")) > 0)
        assert 0 < told_after_s("reader-1", order["createdAt"]) < SOON_S
        shop.wait(lambda: len(world.calls()) > 0)
        assert world.done("pushes") == []
        world.world.change(Behaviours.model_validate({"pushes": {"failure_ratio": 0.0}}))
        created = Traffic(seed=1).order(7)[0]
        event: Any = from_json(created.type, 1, created.data)
        published_at = datetime.now(UTC).isoformat()
        publish(shop, [created, created])
        shop.wait(lambda: len(told(event.customer_id)) > 0)
        assert 0 < told_after_s(event.customer_id, published_at) < SOON_S
        shop.wait(lambda: owes_nothing(shop))
        (own,) = told("reader-1")
        assert own["type"] == "ORDER_CREATED"
        assert order["orderNumber"] in own["message"]
        assert "200.00" in own["message"]
        assert [one["type"] for one in told(event.customer_id)] == ["ORDER_CREATED"]
        assert [call.body["text"] for call in world.done("pushes") if call.body["to"] == "reader-1"] == [own["message"]]


@pytest.mark.row("S2.9")
@pytest.mark.parametrize("broker", BROKERS)
def test_a_hundred_customers_are_told_in_seconds_whatever_their_order_had_to_wait_for(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    world = RecordedWorld(tmp_path / "calls.ndjson")
    with shop_on(settings_for(request, broker, database), [AWAY], world) as shop, api_of(shop) as url:
        body = {"items": [{"productId": 1, "quantity": 1}]}

        def told() -> int:
            return number(shop, "SELECT count(*) FROM notification WHERE type = 'ORDER_CREATED'")

        # Its orders come once the group has joined and was told of one.
        call(shop, "POST", f"{url}/api/orders", "early-1", json=body)
        shop.wait(lambda: told() == 1)
        for customer in range(ORDERS):
            call(shop, "POST", f"{url}/api/orders", f"reader-{customer}", json=body)
        shop.wait(lambda: told() == 1 + ORDERS)
        waited_s = shop.rows(
            "SELECT extract(epoch FROM n.created_at - e.occurred_at) FROM notification n JOIN event e"
            " ON CAST(e.event_id AS text) = n.event_id WHERE n.type = 'ORDER_CREATED' AND n.customer_id <> 'early-1'"
        )
        p50_s, p99_s = (quantiles([float(each) for (each,) in waited_s], n=100)[at] for at in (49, 98))
        print(f"{broker}: from order to notification: p50 {1000 * p50_s:.0f} ms, p99 {1000 * p99_s:.0f} ms")
        assert 0 < p50_s < p99_s < SOON_S


@pytest.mark.row("S4.2", "S4.3", "S4.5", "S4.6", "S4.8")
@pytest.mark.parametrize("broker", BROKERS)
def test_each_application_reaches_platform_mail_and_points_once_and_its_phone_number_reaches_nobody(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = RecordedWorld(tmp_path / "calls.ndjson", 1, records={"failure_ratio": 0.2, "timeout_after_work_ratio": 0.2})
    settings = settings_for(request, broker, database, retry_policy="article-s4")
    groups = ["data-platform", "email-service", "points-coupons", DEAD_LETTER_GROUP]
    with shop_on(settings, [], world) as shop, api_of(shop) as url:
        shop.change("ALTER TABLE platform_record ADD CONSTRAINT cannot_be_kept CHECK (record NOT LIKE '%Broken%')")
        shows = [*(f"Show {n}" for n in range(20)), "Broken", *(f"Show {n}" for n in range(20, 30))]
        body = {"phone": "+82 10-1234-5678"}
        tickets = [call(shop, "POST", f"{url}/api/tickets", "fan-1", json={**body, "show": show}) for show in shows]
        shop.consume(groups)
        shop.wait(lambda: all(has_handled(shop, group, 31) for group in groups[1:3]))
        shop.wait(lambda: has_handled(shop, "data-platform", 30))
        shop.wait(lambda: number(shop, "SELECT count(*) FROM failed_event") == 1)
        shop.wait(lambda: owes_nothing(shop))
        broken = tickets[20]["id"]
        assert sorted(call.body["ticketId"] for call in world.done("records")) == sorted(
            ticket["id"] for ticket in tickets if ticket["id"] != broken
        )
        assert len(world.done("mails")) == 31
        assert shop.rows("SELECT customer_id, points FROM points_account") == [("fan-1", 3_100)]
        _was_tried_three_times(shop, broken)
        assert number(shop, "SELECT count(*) FROM pending") == 0
        wire = [delivery.envelope for delivery in read_all(shop, "ticket-applied")]
        # The relay has looked for rows several times in the seconds that the letter took.
        assert sorted(one.key for one in wire if one) == sorted(ticket["id"] for ticket in tickets)
        _no_phone_anywhere(shop, world, [caplog.text, *map(str, wire)])


def _was_tried_three_times(shop: Shop, ticket_id: str) -> None:
    """A second apart, as the preset says; the letter holds the cause."""
    group, topic, key, attempts, between_s, reason = shop.rows(
        "SELECT consumer_group, topic, key, attempts, extract(epoch FROM last_failed_at - first_failed_at), reason"
        " FROM failed_event"
    )[0]
    assert (group, topic, key, attempts) == ("data-platform", "ticket-applied", ticket_id, 3)
    assert between_s >= 2
    assert "cannot_be_kept" in reason


def read_all(shop: Shop, topic: str) -> list[Delivery]:
    admin = shop.broker.admin()
    found = list(admin.read_all(topic))
    admin.close()
    return found


def _no_phone_anywhere(shop: Shop, world: RecordedWorld, texts: Sequence[str]) -> None:
    """In what was logged and what was on the wire (`texts`), what was sent outside, any table."""
    seen = "".join([*texts, *map(str, world.calls())])
    for (table,) in shop.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        seen += str(shop.rows(f"SELECT t::text FROM {table} t"))
    assert "*********5678" in seen
    assert PHONE_DIGITS not in "".join(character for character in seen if character not in " -+()./")


@pytest.mark.row("S3.19")
@pytest.mark.parametrize("broker", BROKERS)
def test_a_message_that_no_group_can_read_is_kept_with_type_id_body_reason_and_group(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poison = Traffic(seed=1).order(7)[0]._replace(id=new_uuid7(), data=b'{"orderId": 7}')
    world = RecordedWorld(tmp_path / "calls.ndjson")
    with shop_on(settings_for(request, broker, database), ["read-model", DEAD_LETTER_GROUP], world) as shop:
        publish(shop, [poison, poison])
        shop.wait(lambda: number(shop, "SELECT count(*) FROM failed_event") == 1)
        kept = shop.rows("SELECT event_type, event_id, body, consumer_group, reason FROM failed_event")[0]
        assert kept[:4] == ("OrderCreated", poison.id, poison.data, "read-model")
        assert "OrderCreated" in kept[4]
        shop.wait(lambda: "dead letters were kept" in caplog.text)
