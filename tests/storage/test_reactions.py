"""The groups that react, on a real PostgreSQL: every count equals a recount, and what comes again changes nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, insert, text
from sqlalchemy.exc import IntegrityError

from core.domain.events import Event, OrderCreated, PaymentCompleted, from_json
from core.effects import read_model, table
from core.inbox.handlers import GroupHandler, Ignored, Poison
from core.inbox.outside import OutsideCaller
from core.inbox.retries import RetryPolicy
from core.inbox.writing import GroupWriting
from core.messaging.envelope import Envelope
from core.storage.database import create_database_engine
from core.storage.outside_calls import count_reserved
from core.storage.schema import create_schema
from core.storage.shop import ShopTables, shop_tables
from core.storage.tables import MessagingTables, messaging_tables
from servers.lifecycle import Server
from tests.databases import fresh_database
from tests.mixed_orders import START, Traffic, batches, mixed
from tests.recorded_world import RecordedWorld
from tests.waiting import until

GROUPS = (
    "email-service",
    "notification-service",
    "data-platform",
    "analytics-service",
    "points-coupons",
    "read-model",
)
TRAFFIC = mixed(orders=200, tickets=60)


@dataclass
class Reactions:
    engine: Engine
    tables: MessagingTables
    shop: ShopTables

    def handler(self, group: str) -> GroupHandler:
        return table.GROUPS[group].handler(self.shop)

    def deliver(self, group: str, envelopes: Sequence[Envelope]) -> None:
        """With the inbox, as the worker does."""
        with self.engine.begin() as connection:
            GroupWriting(self.tables, group, self.handler(group)).write(connection, envelopes)

    def deliver_bare(self, group: str, envelopes: Sequence[Envelope]) -> list[object]:
        """Without any inbox; what the handler says it did."""
        with self.engine.begin() as connection:
            return list(self.handler(group)(connection, envelopes).done)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that any group has written, but for the clock's readings."""
        clocks = {"due_at", "flagged_at", "created_at", "updated_at", "handled_at"}
        written = [getattr(self.shop.reactions, name) for name in self.shop.reactions.__dataclass_fields__]
        written += [self.tables.inbox, self.tables.effect]
        return {
            one.name: sorted(
                self.rows(f"SELECT {', '.join(c.name for c in one.c if c.name not in clocks)} FROM {one.name}"),
                key=str,
            )
            for one in written
        }


@pytest.fixture(scope="module")
def made(postgres_server: Server) -> Iterator[Reactions]:
    with fresh_database(postgres_server) as url:
        engine = create_database_engine(url)
        metadata = MetaData()
        reactions = Reactions(engine, messaging_tables(metadata), shop_tables(metadata))
        create_schema(engine, metadata, reactions.tables)
        yield reactions
        engine.dispose()


@pytest.fixture
def reactions(made: Reactions) -> Reactions:
    with made.engine.begin() as connection:
        names = [getattr(made.shop.reactions, name).name for name in made.shop.reactions.__dataclass_fields__]
        connection.execute(text(f"TRUNCATE inbox, effect, {', '.join(names)} RESTART IDENTITY"))
    return made


def taken_by(group: str, envelopes: Sequence[Envelope] = TRAFFIC) -> list[Envelope]:
    return [envelope for envelope in envelopes if envelope.type in table.GROUPS[group].takes]


def payload(envelope: Envelope) -> Event:
    return from_json(envelope.type, 1, envelope.data)


def of_types(*types: str) -> list[Any]:
    return [payload(envelope) for envelope in TRAFFIC if envelope.type in types]


@pytest.mark.row("S0.28", on="any")
@pytest.mark.parametrize("group", GROUPS)
def test_a_redelivered_batch_changes_nothing_and_every_event_has_its_effect_once(
    reactions: Reactions, group: str
) -> None:
    wanted = taken_by(group)
    for batch in batches(wanted, 40, seed=1):
        reactions.deliver(group, batch)
    before = reactions.everything()
    assert [id for (id, *_) in reactions.rows("SELECT DISTINCT event_id::text FROM effect ORDER BY 1")] == sorted(
        envelope.id for envelope in wanted
    )
    for batch in batches(wanted, 70, seed=2):
        reactions.deliver(group, batch)
        reactions.deliver(group, batch[: len(batch) // 2])
    assert reactions.everything() == before


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "analytics-service"])
@pytest.mark.row("S0.32", on="any")
def test_an_effect_with_a_condition_of_its_own_bears_a_repeat_even_without_an_inbox(
    reactions: Reactions, group: str
) -> None:
    wanted = taken_by(group)
    reactions.deliver_bare(group, wanted)
    before = reactions.everything()
    for _ in range(2):
        assert all(isinstance(done, Ignored) for done in reactions.deliver_bare(group, wanted))
    assert reactions.everything() == before


@pytest.mark.row("S0.32", on="any")
def test_an_effect_that_only_adds_drifts_by_each_repeat_without_an_inbox(reactions: Reactions) -> None:
    for _ in range(3):
        reactions.deliver_bare("analytics-service", taken_by("analytics-service"))
    orders, amount = reactions.rows(
        "SELECT sum(events), sum(amount) FROM analytics_minute WHERE event_type = 'OrderCreated'"
    )[0]
    assert (orders, amount) == (3 * 200, 3 * sum(event.total_amount for event in of_types("OrderCreated")))


@pytest.mark.row("S1.18", on="any")
@pytest.mark.parametrize(("has_inbox", "times"), [(False, 2), (True, 1)])
def test_what_is_delivered_twice_doubles_sales_views_and_sums_unless_an_inbox_knows_it(
    reactions: Reactions, has_inbox: bool, times: int
) -> None:
    with reactions.engine.begin() as connection:
        connection.execute(text("TRUNCATE product_metrics"))
    groups = ("product-metrics", "analytics-service")
    for group in (*groups, *groups):
        (reactions.deliver if has_inbox else reactions.deliver_bare)(group, taken_by(group))
    types = Counter(envelope.type for envelope in TRAFFIC)
    sold = sum(event.quantity for event in of_types("ProductSold"))
    assert reactions.rows("SELECT sum(sales), sum(views) FROM product_metrics") == [
        (times * sold, times * types["ProductViewed"])
    ]
    paid = sum(event.amount for event in of_types("PaymentCompleted"))
    assert reactions.rows(
        "SELECT sum(events), sum(amount) FROM analytics_minute WHERE event_type = 'PaymentCompleted'"
    ) == [(times * types["PaymentCompleted"], times * paid)]


@pytest.mark.row("S2.28", on="any")
def test_the_sums_a_minute_equal_a_recount_of_the_events_by_two_workers(reactions: Reactions) -> None:
    lanes = [[e for e in taken_by("analytics-service") if int(e.key[0], 16) % 2 == lane] for lane in (0, 1)]

    def work(lane: int) -> None:
        for batch in batches(lanes[lane], 30, seed=lane):
            reactions.deliver("analytics-service", batch)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (0, 1)))
    expected: Counter[tuple[Any, str]] = Counter()
    money: Counter[tuple[Any, str]] = Counter()
    for envelope in taken_by("analytics-service"):
        key = (envelope.occurred_at.replace(second=0, microsecond=0), envelope.type)
        event: Any = payload(envelope)
        expected[key] += 1
        if envelope.type in ("OrderCreated", "OrderPaid"):
            money[key] += event.total_amount
        elif envelope.type.startswith("Payment"):
            money[key] += event.amount
    counted = reactions.rows("SELECT minute, event_type, events, amount FROM analytics_minute")
    assert {(minute, kind): (events, amount) for minute, kind, events, amount in counted} == {
        key: (count, money[key]) for key, count in expected.items()
    }
    assert len({minute for minute, *_ in counted}) > 1


@pytest.mark.row("S2.28", on="any")
def test_an_order_far_above_the_mean_of_the_hour_is_flagged(reactions: Reactions) -> None:
    usual = taken_by("analytics-service")
    reactions.deliver("analytics-service", usual)
    created = next(envelope for envelope in usual if envelope.type == "OrderCreated")
    traffic = Traffic(seed=9)
    event: Any = payload(created)
    mean = sum(order.total_amount for order in of_types("OrderCreated")) / 200

    def order_over(amount: Decimal, hours: int = 0) -> Envelope:
        key = traffic.new_id()
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        changed = OrderCreated(**fields | {"order_id": key, "total_amount": amount})
        return traffic.envelope(key, 1, changed)._replace(occurred_at=START + timedelta(hours=hours, minutes=1))

    large, ordinary, lonely = order_over(mean * 11), order_over(mean * 9), order_over(mean * 11, hours=3)
    reactions.deliver("analytics-service", [ordinary, large])
    reactions.deliver("analytics-service", [lonely])
    assert reactions.rows("SELECT order_id FROM order_anomaly") == [(large.key,)]


@pytest.mark.row("S0.29", on="any")
def test_mails_equal_a_recount_and_later_ones_go_to_the_address_that_the_order_told(reactions: Reactions) -> None:
    for batch in batches(taken_by("email-service"), 10, seed=1):
        reactions.deliver("email-service", batch)
    addresses = {order.order_id: order.buyer_email or order.customer_id for order in of_types("OrderCreated")}
    expected = {(order, "ORDER_CONFIRMATION", "", to) for order, to in addresses.items()}
    expected |= {(o.order_id, "ORDER_CONFIRMED", "", addresses[o.order_id]) for o in of_types("OrderConfirmed")}
    expected |= {(o.order_id, "ORDER_CANCELLED", "", addresses[o.order_id]) for o in of_types("OrderCancelled")}
    expected |= {
        (o.order_id, f"ORDER_{o.status}", o.seller_id, addresses[o.order_id]) for o in of_types("OrderStatusChanged")
    }
    expected |= {(t.ticket_id, "TICKET_APPLIED", "", t.customer_id) for t in of_types("TicketApplied")}
    reserved = reactions.rows("SELECT order_id, email_type, seller_id, recipient FROM email_sent_record")
    assert Counter(reserved) == Counter(expected)


@pytest.mark.row("S0.29", on="any")
def test_two_events_that_ask_for_one_mail_get_one(reactions: Reactions) -> None:
    confirmed = next(envelope for envelope in TRAFFIC if envelope.type == "OrderConfirmed")
    again = confirmed._replace(id=Traffic(seed=5).new_id())
    assert reactions.deliver_bare("email-service", [confirmed, again]) == [
        "mail_reserved",
        Ignored("its mail was reserved before"),
    ]
    assert reactions.deliver_bare("email-service", [again]) == [Ignored("its mail was reserved before")]


@pytest.mark.row("S2.4", on="any")
def test_orders_items_and_notifications_have_the_columns_that_people_know(reactions: Reactions) -> None:
    found = reactions.rows(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        " AND is_nullable = 'NO' AND table_name IN ('orders', 'order_items', 'notification')"
    )
    # `customer_id` is the article's userId; an item is named by its order and line.
    known = {
        "orders": {
            "id": "uuid",
            "customer_id": "character varying",
            "total_amount": "numeric",
            "status": "character varying",
            "created_at": "timestamp with time zone",
        },
        "order_items": {
            "order_id": "uuid",
            "line_no": "smallint",
            "product_id": "bigint",
            "quantity": "integer",
            "price": "numeric",
        },
        "notification": {
            "id": "bigint",
            "customer_id": "character varying",
            "type": "character varying",
            "message": "text",
            "created_at": "timestamp with time zone",
        },
    }
    assert {(its_table, name, type) for its_table, columns in known.items() for name, type in columns.items()} <= set(
        found
    )
    status = (
        "SELECT column_default FROM information_schema.columns WHERE (table_name, column_name) = ('orders', 'status')"
    )
    assert reactions.rows(status) == [("'PENDING'::character varying",)]


@pytest.mark.row("S2.14", on="any")
def test_redelivered_three_times_without_an_inbox_one_key_keeps_it_one_notification_and_without_the_key_it_is_three(
    reactions: Reactions,
) -> None:
    created = next(envelope for envelope in TRAFFIC if envelope.type == "OrderCreated")
    for _ in range(3):
        reactions.deliver_bare("notification-service", [created])
    assert reactions.rows("SELECT event_id, channel FROM notification") == [(created.id, "PUSH")]
    notification = reactions.shop.reactions.notification
    (row,) = reactions.rows("SELECT channel, customer_id, type, message FROM notification")
    again = dict(zip(("channel", "customer_id", "type", "message"), row, strict=True))
    with reactions.engine.connect() as connection, pytest.raises(IntegrityError, match='"notified_once"'):
        connection.execute(insert(notification), {**again, "event_id": created.id, "idempotency_key": "another"})
    with reactions.engine.connect() as connection:
        for constraint in ("notified_once", "notification_idempotency_key_key"):
            connection.execute(text(f"ALTER TABLE notification DROP CONSTRAINT {constraint}"))
        connection.execute(text("DELETE FROM notification"))
        for _ in range(3):
            reactions.handler("notification-service")(connection, [created])
        rows = connection.execute(text("SELECT event_id, channel FROM notification")).all()
        connection.rollback()
    assert [tuple(row) for row in rows] == 3 * [(created.id, "PUSH")]


@pytest.mark.row("S2.4", on="any")
def test_notifications_are_one_an_event_and_channel(reactions: Reactions) -> None:
    for batch in batches(taken_by("notification-service"), 100, seed=1):
        reactions.deliver("notification-service", batch)
    told = Counter(reactions.rows("SELECT type, channel FROM notification"))
    types = Counter(envelope.type for envelope in TRAFFIC)
    assert told["ORDER_CREATED", "PUSH"] == types["OrderCreated"]
    assert told["ORDER_CONFIRMED", "PUSH"] == told["ORDER_CONFIRMED", "SMS"] == types["OrderConfirmed"]
    assert told["ORDER_PAID", "PUSH"] == types["OrderPaid"]
    assert told["ORDER_CANCELLED", "PUSH"] == types["OrderCancelled"]
    assert told["PAYMENT_FAILED", "PUSH"] == types["PaymentFailed"]
    assert told["ORDER_SHIPPED", "PUSH"] + told["ORDER_DELIVERED", "PUSH"] == types["OrderStatusChanged"]


def test_points_and_coupons_equal_a_recount_and_a_coupon_is_used_once(reactions: Reactions) -> None:
    for batch in batches(taken_by("points-coupons"), 25, seed=1):
        reactions.deliver("points-coupons", batch)
    points: Counter[str] = Counter()
    for event in of_types("PaymentCompleted", "TicketApplied"):
        points[event.customer_id] += int(event.amount) // 10 if isinstance(event, PaymentCompleted) else 100
    assert dict(reactions.rows("SELECT customer_id, points FROM points_account")) == dict(points)
    assert reactions.rows("SELECT count(*) FROM coupon") == [(60,)]
    # 60 tickets and 120 payments of 20 customers: how many meet depends on the order in which they came.
    coupons, payments, used = Counter[str](), {p.order_id: p.customer_id for p in of_types("PaymentCompleted")}, 0
    for batch in batches(taken_by("points-coupons"), 25, seed=1):
        coupons.update(payload(e).customer_id for e in batch if e.type == "TicketApplied")  # type: ignore[attr-defined]
        for envelope in batch:
            if envelope.type == "PaymentCompleted" and coupons[payments[envelope.key]]:
                coupons[payments[envelope.key]] -= 1
                used += 1
    assert used > 20
    of_whom = reactions.rows("SELECT order_id, customer_id FROM coupon WHERE order_id IS NOT NULL")
    assert len(of_whom) == used
    assert all(payments[order_id] == customer for order_id, customer in of_whom)


def paid_for(traffic: Traffic, order_id: str) -> Envelope:
    event = next(e for e in TRAFFIC if e.type == "PaymentCompleted")
    fields = {name: getattr(payload(event), name) for name in PaymentCompleted.__struct_fields__}
    return traffic.envelope(order_id, 1, PaymentCompleted(**fields | {"order_id": order_id, "customer_id": "c-1"}))


def test_a_payment_uses_one_coupon_however_often_it_comes_and_two_payments_never_share_one(
    reactions: Reactions,
) -> None:
    traffic = Traffic(seed=4)
    tickets = [traffic.ticket(1)[0], traffic.ticket(1)[0]]
    first, second, third = (paid_for(traffic, f"o-{number}") for number in (1, 2, 3))
    reactions.deliver_bare("points-coupons", tickets)
    for _ in range(3):
        reactions.deliver_bare("points-coupons", [first])
    assert reactions.rows("SELECT count(*) FROM coupon WHERE order_id IS NULL") == [(1,)]
    handle = reactions.handler("points-coupons")
    with ThreadPoolExecutor(1) as pool:
        with reactions.engine.begin() as connection:
            assert handle(connection, [second]).done == [("points_added", "coupon_used")]
            other = pool.submit(reactions.deliver_bare, "points-coupons", [third])
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type"
            until(lambda: reactions.rows(f"{waiting} = 'Lock'") == [(1,)], 60)
        assert other.result() == ["points_added"]
    used = [order_id for (order_id,) in reactions.rows("SELECT order_id FROM coupon ORDER BY order_id")]
    assert used == ["o-1", "o-2"]


def expected_status(number_of_changes: Counter[str], types: set[str]) -> str:
    if "OrderCancelled" in types:
        return "CANCELLED"
    if "OrderPaid" not in types:
        return "PENDING"
    return "DELIVERED" if number_of_changes["DELIVERED"] else "SHIPPED" if number_of_changes["SHIPPED"] else "PAID"


@pytest.mark.row("S3.33", "S3.35", on="any")
def test_the_read_model_equals_a_recount_and_holds_the_newest_version(reactions: Reactions) -> None:
    for batch in batches(taken_by("read-model"), 100, seed=1):
        reactions.deliver("read-model", batch)
    expected = {}
    for created in of_types("OrderCreated"):
        own = [e for e in taken_by("read-model") if e.key == created.order_id]
        changes = Counter(str(payload(e).status) for e in own if e.type == "OrderStatusChanged")  # type: ignore[attr-defined]
        types = {envelope.type for envelope in own}
        versions = [e.sequence for e in own if e.type != "InventoryConfirmed" and e.sequence]
        status, is_confirmed = expected_status(changes, types), "InventoryConfirmed" in types
        expected[created.order_id] = (created.customer_id, created.total_amount, status, max(versions), is_confirmed)
    seen = reactions.rows(
        "SELECT order_id, customer_id, total_amount, status, version, is_stock_confirmed FROM order_read_model"
    )
    assert {order_id: rest for order_id, *rest in seen} == {key: list(value) for key, value in expected.items()}
    assert {row[3] for row in seen} == {"PAID", "SHIPPED", "DELIVERED", "CANCELLED"}


@pytest.mark.row("S3.34", on="any")
def test_an_event_that_was_overtaken_is_ignored_and_the_newer_state_stays(reactions: Reactions) -> None:
    life = [e for e in Traffic(seed=3).order(0) if e.type in read_model.TAKES]
    assert [e.type for e in life] == ["OrderCreated", "OrderConfirmed", "OrderPaid", "InventoryConfirmed"]
    created, confirmed, paid, stock = life
    assert reactions.deliver_bare("read-model", [stock]) == ["projected"]
    assert reactions.rows("SELECT version FROM order_read_model") == [(0,)]
    assert reactions.deliver_bare("read-model", [created, paid]) == ["projected", "projected"]
    assert reactions.deliver_bare("read-model", [confirmed]) == [Ignored("the view is at version 3 already")]
    assert reactions.rows("SELECT status, version, is_stock_confirmed FROM order_read_model") == [("PAID", 3, True)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.row("S2.18", on="any")
def test_what_cannot_be_read_is_poison_and_nothing_of_its_batch_is_written(reactions: Reactions, group: str) -> None:
    good, bad = taken_by(group)[:2]
    with pytest.raises(Poison, match=bad.type):
        reactions.deliver(group, [good, bad._replace(data=b'{"customerId": 1}')])
    assert not any(reactions.everything().values())


CALLING = ("email-service", "notification-service", "data-platform")
HARD = {"failure_ratio": 0.3, "timeout_after_work_ratio": 0.2}


def call_until_done(reactions: Reactions, group: str, outside: RecordedWorld, batch: Sequence[Envelope]) -> None:
    calls = table.GROUPS[group].calls
    assert calls is not None
    reserved = calls.table(reactions.shop)
    caller = OutsideCaller(
        reactions.engine,
        reserved,
        calls.call(outside),
        at_once=calls.at_once,
        retry=RetryPolicy(tries=None, first_delay_s=0.001, max_delay_s=0.001),
    )
    caller.call_for(batch)
    for _ in range(1_000):
        caller.sweep()
        with reactions.engine.connect() as connection:
            if not count_reserved(connection, [reserved]):
                return
    raise AssertionError("calls are still owed")


@pytest.mark.parametrize("group", CALLING)
def test_a_service_that_fails_and_keeps_silent_gets_everything_once_if_it_honours_keys(
    reactions: Reactions, tmp_path: Path, group: str
) -> None:
    outside = RecordedWorld(tmp_path / "calls.ndjson", 1, mails=HARD, pushes=HARD, sms=HARD, records=HARD)
    reactions.deliver(group, taken_by(group))
    call_until_done(reactions, group, outside, taken_by(group))
    calls = table.GROUPS[group].calls
    assert calls is not None
    reserved = [key for (key,) in reactions.rows(f"SELECT idempotency_key FROM {calls.table(reactions.shop)}")]
    assert Counter(call.key for call in outside.done()) == Counter(reserved)
    assert len(list(outside.world.record.calls())) > len(reserved)


def test_a_service_that_honours_no_keys_is_seen_to_do_some_twice_but_loses_none(
    reactions: Reactions, tmp_path: Path
) -> None:
    outside = RecordedWorld(tmp_path / "calls.ndjson", 1, records=HARD | {"honours_keys": False})
    reactions.deliver("data-platform", taken_by("data-platform"))
    call_until_done(reactions, "data-platform", outside, taken_by("data-platform"))
    times = Counter(call.key for call in outside.done())
    assert times.keys() == {envelope.id for envelope in taken_by("data-platform")}
    assert max(times.values()) > 1


def test_the_platform_receives_its_fields_to_the_cent(reactions: Reactions, tmp_path: Path) -> None:
    outside = RecordedWorld(tmp_path / "calls.ndjson", 1)
    confirmed = next(envelope for envelope in TRAFFIC if envelope.type == "OrderConfirmed")
    reactions.deliver("data-platform", [confirmed])
    call_until_done(reactions, "data-platform", outside, [confirmed])
    event: Any = payload(confirmed)
    (call,) = outside.done()
    assert call.key == confirmed.id
    assert call.body["orderId"] == event.order_id
    assert call.body["finalTotalAmount"] == float(event.total_amount)
    assert set(call.body) == {
        "kind",
        "status",
        "time",
        "orderId",
        "orderNumber",
        "userId",
        "originalTotalAmount",
        "discountAmount",
        "finalTotalAmount",
    }
