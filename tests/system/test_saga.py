"""An order's saga through the whole shop, on every broker: paid, out of stock, payment refused, crashed half-way."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.effects.table import GROUPS
from core.inbox.dead_letters import Redone, redo_all
from core.messaging.topology import DEAD_LETTER_GROUP
from testbed import wiring
from testbed.settings import Settings
from tests.system.shop_threads import DECLINED, STOCK_EACH, Shop, settings_for, shop_on

BROKERS = ("memory", "kafka", "rabbitmq")


@pytest.mark.row("S1.3", "S1.7", "S1.37", "S3.15", "S3.27", "S3.39", "S3.40", "S3.41", "S3.42")
@pytest.mark.parametrize("broker", BROKERS)
def test_an_order_is_paid_or_cancelled_with_its_stock_and_money_put_back(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    with shop_on(settings_for(request, broker, database)) as shop:
        happy = shop.order(product=1, quantity=2)
        short = shop.order(product=2, quantity=STOCK_EACH + 1)
        declined = shop.order(product=3, quantity=3, card_type=DECLINED)
        shop.wait(shop.all_ended)
        _paid(shop, happy)
        _out_of_stock(shop, short)
        _payment_failed(shop, declined)
        _mailed_and_put_back_when_cancelled(shop, happy)
        _nothing_changes_when_all_of_it_comes_again(shop)


def _paid(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "PAID"
    assert shop.saga_of(order_id) == ("PAYMENT_COMPLETED", "COMPLETED", None)
    assert shop.events_of(order_id, "Order") == ["OrderCreated", "OrderConfirmed", "OrderPaid"]
    assert shop.events_of(order_id, "OrderSaga") == ["ReserveInventory", "ProcessPayment", "ConfirmOrder"]
    shop.wait(lambda: shop.events_of(order_id, "StockReservation") == ["InventoryReserved", "InventoryConfirmed"])
    assert shop.events_of(order_id, "Payment") == ["PaymentCompleted"]
    assert shop.stock_of(1) == STOCK_EACH - 2
    assert shop.world.charges.count(f"pay-{order_id}") == 1
    shop.wait(lambda: shop.rows("SELECT product_id, sales FROM product_metrics") == [(1, 2)])
    correlations = shop.rows(
        "SELECT count(DISTINCT correlation_id), count(*) FILTER (WHERE causation_id IS NULL) FROM event"
        " WHERE aggregate_id = :id", id=order_id,
    )  # fmt: skip
    assert correlations == [(1, 1)]


def _out_of_stock(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "CANCELLED"
    assert shop.saga_of(order_id) == ("ORDER_CREATED", "CANCELLED", "out of stock: not enough stock of 2")
    assert shop.events_of(order_id, "OrderSaga") == ["ReserveInventory", "CancelOrder"]
    assert shop.events_of(order_id, "StockReservation") == ["InventoryReservationFailed"]
    assert shop.events_of(order_id, "Payment") == []
    assert shop.world.charges.count(f"pay-{order_id}") == 0
    assert shop.stock_of(2) == STOCK_EACH


def _payment_failed(shop: Shop, order_id: str) -> None:
    assert shop.status_of(order_id) == "CANCELLED"
    assert shop.saga_of(order_id) == ("INVENTORY_RESERVED", "CANCELLED", "payment failed: card declined")
    assert shop.events_of(order_id, "OrderSaga")[2:] == ["ReleaseInventory", "CancelOrder"]
    shop.wait(lambda: shop.stock_of(3) == STOCK_EACH)
    assert shop.events_of(order_id, "StockReservation") == ["InventoryReserved", "InventoryReleased"]
    assert shop.events_of(order_id, "Payment") == ["PaymentFailed"]


def _mailed_and_put_back_when_cancelled(shop: Shop, paid: str) -> None:
    """The in-process handler's flows: a confirmed order is mailed and its stock kept, a cancelled one undone."""
    mailed = "SELECT email_type, subject FROM email_sent_record WHERE order_id = :id AND status = 'SENT'"
    shop.wait(lambda: {kind for kind, _ in shop.rows(mailed, id=paid)} == {"ORDER_CONFIRMATION", "ORDER_CONFIRMED"})
    shop.cancel(paid)
    shop.wait(lambda: shop.stock_of(1) == STOCK_EACH)
    shop.wait(lambda: shop.world.cancels == [f"pay-{paid}"])
    shop.wait(lambda: shop.events_of(paid, "Payment") == ["PaymentCompleted", "PaymentCancelled"])
    shop.wait(lambda: len(shop.rows(mailed, id=paid)) == 3)
    assert "changed my mind" in dict(shop.rows(mailed, id=paid))["ORDER_CANCELLED"]


def _nothing_changes_when_all_of_it_comes_again(shop: Shop) -> None:
    def counted() -> list[tuple[object, ...]]:
        return shop.rows(
            "SELECT (SELECT sum(stock) FROM product), (SELECT count(*) FROM event), (SELECT count(*) FROM effect), "
            "(SELECT count(*) FROM payment), (SELECT count(*) FROM email_sent_record)"
        )

    admin, publisher = shop.broker.admin(), shop.broker.publisher()

    def owed() -> int:
        return sum(lag.lag_messages for group in GROUPS for lag in admin.lag(group).values())

    shop.wait(lambda: owed() == 0 and shop.rows("SELECT count(*) FROM pending") == [(0,)])
    before, calls = counted(), (list(shop.world.charges), list(shop.world.cancels))
    for topic in ("order-commands", "order-events"):
        again = [delivery.envelope for delivery in admin.read_all(topic) if delivery.envelope]
        assert len(again) >= 9
        assert all(outcome.is_confirmed for outcome in publisher.publish(again, 20.0))
    shop.wait(lambda: owed() == 0)
    publisher.close()
    admin.close()
    assert (counted(), (shop.world.charges, shop.world.cancels)) == (before, calls)


@pytest.mark.row("S1.10", "S3.15", "S3.16", "S3.45")
@pytest.mark.parametrize("broker", BROKERS)
def test_a_failing_release_is_retried_becomes_a_letter_alarms_and_is_redone_while_its_saga_is_compensated(
    request: pytest.FixtureRequest, broker: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One fault, four ways of handling: back-off, dead letter, alert, compensation. Points that fail beside it are a
    letter too, and leave their payment complete."""
    settings = settings_for(request, broker, database, retry_policy="article-s3-kafka")
    with shop_on(settings, []) as shop:
        shop.change("ALTER TABLE stock_reservation ADD CONSTRAINT no_release CHECK (status <> 'RELEASED')")
        shop.change("ALTER TABLE points_account ADD CONSTRAINT no_points CHECK (points = 0)")
        declined, short, happy = (
            shop.order(product=1, quantity=3, card_type=DECLINED),
            shop.order(product=2, quantity=STOCK_EACH + 1),
            shop.order(product=3),
        )
        shop.consume([*wiring.groups(settings), DEAD_LETTER_GROUP])
        shop.wait(lambda: shop.rows("SELECT count(*) FROM failed_event") == [(3,)])
        letters = shop.rows(
            "SELECT consumer_group, event_type, key, attempts, "
            "extract(epoch FROM last_failed_at - first_failed_at) >= 2, substring(reason FROM 'no_release|no_points')"
            " FROM failed_event"
        )
        # Both that would put the stock back: the saga's command and the cancelled order's own event.
        assert sorted(letters) == [
            *(
                ("inventory-service", name, declined, 3, True, "no_release")
                for name in ("OrderCancelled", "ReleaseInventory")
            ),
            ("points-coupons", "PaymentCompleted", happy, 3, True, "no_points"),
        ]
        alarms = [record for record in caplog.records if record.message.startswith("dead letters were kept")]
        assert {record.levelname for record in alarms} == {"ERROR"}
        shop.wait(shop.all_ended)
        assert [shop.status_of(order) for order in (declined, short, happy)] == ["CANCELLED", "CANCELLED", "PAID"]
        assert shop.events_of(short, "StockReservation") == ["InventoryReservationFailed"]
        assert shop.stock_of(1) == STOCK_EACH - 3, "what cannot be released is not"
        _stands_without_its_points(shop, happy)

        shop.change("ALTER TABLE stock_reservation DROP CONSTRAINT no_release")
        shop.change("ALTER TABLE points_account DROP CONSTRAINT no_points")
        setups = wiring.group_setups(settings, shop.database, shop.context.sink)
        redone = redo_all(shop.database.engine, shop.database.messaging, setups)
        assert [answer.outcome for answer in redone] == 3 * [Redone.REDONE]
        assert shop.stock_of(1) == STOCK_EACH
        assert shop.rows("SELECT customer_id, points > 0 FROM points_account") == [("c-1", True)]
        assert shop.events_of(declined, "StockReservation") == ["InventoryReserved", "InventoryReleased"]


def _stands_without_its_points(shop: Shop, order_id: str) -> None:
    """A payment's points and its behaviour log are handlers of their own: one that fails takes nothing else along."""
    payment = "SELECT status FROM payment WHERE order_id = CAST(:id AS uuid)"
    assert shop.rows(payment, id=order_id) == [("COMPLETED",)]
    counted = "SELECT events FROM analytics_minute WHERE event_type = 'PaymentCompleted'"
    shop.wait(lambda: shop.rows(counted) == [(1,)])
    assert shop.rows("SELECT count(*) FROM points_account") == [(0,)]


@pytest.mark.row("S3.43", on="memory")
def test_a_saga_past_its_deadline_is_compensated_or_carried_on_and_counted_until_then(
    request: pytest.FixtureRequest, database: str
) -> None:
    groups = ["order-saga", "inventory-service", "payment-service"]
    with shop_on(settings_for(request, "memory", database), groups) as shop:
        open_, paid = shop.order(card_type="PENDING"), shop.order()
        shop.wait(lambda: shop.saga_of(open_)[:2] == ("INVENTORY_RESERVED", "RUNNING"))
        # No order-service is at work: the saga waits after the payment.
        shop.wait(lambda: shop.saga_of(paid)[:2] == ("PAYMENT_COMPLETED", "RUNNING"))
        shop.wait(lambda: shop.world.charges.count(f"pay-{open_}") == 1)
        assert shop.hung_sagas() == 0
        shop.change("UPDATE saga_state SET deadline_at = clock_timestamp() - interval '1 s'")
        shop.wait(lambda: shop.saga_of(open_)[1] == "COMPENSATING" and shop.hung_sagas() == 0)
        assert shop.saga_of(open_)[2] == "timed out after INVENTORY_RESERVED"
        assert shop.saga_of(paid) == ("PAYMENT_COMPLETED", "RUNNING", None)
        shop.wait(lambda: shop.world.cancels == [f"pay-{open_}"])
        shop.consume(["order-service"])
        shop.wait(shop.all_ended)
        assert (shop.status_of(open_), shop.status_of(paid)) == ("CANCELLED", "PAID")
        assert shop.events_of(paid, "OrderSaga").count("ConfirmOrder") == 2
        assert shop.events_of(paid, "Order").count("OrderPaid") == 1
        shop.wait(lambda: shop.stock_of(1) == STOCK_EACH - 1)
        assert shop.events_of(open_, "Payment") == ["PaymentCancelled"]


@pytest.mark.row("S1.3", "S3.15", on="memory")
def test_an_order_cancelled_by_its_customer_gets_its_money_and_stock_back_at_any_step(
    request: pytest.FixtureRequest, database: str
) -> None:
    with shop_on(settings_for(request, "memory", database)) as shop:
        at_once, open_, paid = shop.order(), shop.order(card_type="PENDING"), shop.order()
        shop.cancel(at_once)
        shop.wait(lambda: shop.saga_of(open_)[:1] == ("INVENTORY_RESERVED",) and shop.status_of(paid) == "PAID")
        shop.cancel(open_)
        shop.cancel(paid)
        shop.wait(shop.all_ended)
        shop.wait(lambda: shop.stock_of(1) == STOCK_EACH)
        shop.wait(lambda: {f"pay-{open_}", f"pay-{paid}"} <= set(shop.world.cancels))
        assert [shop.status_of(order) for order in (at_once, open_, paid)] == ["CANCELLED"] * 3
        shop.wait(lambda: shop.rows("SELECT count(*) FROM payment WHERE status IN ('PENDING', 'COMPLETED')") == [(0,)])
        assert shop.rows("SELECT count(*) FROM payment_call WHERE status = 'RESERVED'") == [(0,)]


@pytest.mark.row("S3.17")
@pytest.mark.parametrize("broker", BROKERS)
def test_side_by_side_choreography_charges_an_order_that_cannot_be_filled(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    settings = settings_for(request, broker, database, seams={"flow": "choreography_parallel"})
    with shop_on(settings) as shop:
        unfilled, filled = shop.order(quantity=STOCK_EACH + 1), shop.order()
        shop.wait(lambda: shop.status_of(unfilled) == shop.status_of(filled) == "PAID")
        shop.wait(lambda: shop.events_of(unfilled, "StockReservation") == ["InventoryReservationFailed"])
        assert shop.world.charges.count(f"pay-{unfilled}") == 1
        assert shop.world.cancels == []
        shop.wait(lambda: shop.stock_of(1) == STOCK_EACH - 1)


COUNT_WITHOUT_COMMAND = """SELECT count(*) FROM saga_state s WHERE NOT EXISTS
    (SELECT FROM event e WHERE e.aggregate_type = 'OrderSaga' AND e.aggregate_id = CAST(s.order_id AS text))"""
COUNT_COMPLETED = "SELECT count(*) FROM saga_state WHERE status = 'COMPLETED'"


@pytest.mark.row("S3.43")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
@pytest.mark.parametrize("saga", ["outbox", "two_writes"])
@pytest.mark.parametrize(("orders", "crashes"), [(5, 1), pytest.param(1_000, 10, marks=pytest.mark.long)])
def test_a_crash_between_saga_and_next_command_hangs_only_the_saga_that_writes_them_apart(
    request: pytest.FixtureRequest, broker: str, saga: str, orders: int, crashes: int, database: str, tmp_path: Path
) -> None:
    """P10, by SIGKILL at `applied`: the saga's state is committed, and two_writes has not written the command yet."""
    # A killed member of a classic group is missed after 2 s; RabbitMQ sees its connection close.
    quick = {"kafka_group_protocol": "classic", "session_timeout_s": 2.0} if broker == "kafka" else {}
    # What hangs is counted before its deadline ends it.
    settings = settings_for(request, broker, database, seams={"saga": saga}, saga_deadline_s=3_600.0, **quick)
    others = [group for group in GROUPS if group != "order-saga"]
    # An order is some thirty messages.
    within_s = 60.0 + 0.5 * orders
    with shop_on(settings, others) as shop:
        made, hung = list[str](), 0
        for _ in range(crashes):
            with role(settings, tmp_path, "order-saga", CRASH_AT="applied") as crashing:
                made += [shop.order(product=1 + number % 10) for number in range(orders // crashes)]
                assert crashing.wait(60) == -signal.SIGKILL, (tmp_path / "role.log").read_text()
            before, hung = hung, shop.rows(COUNT_WITHOUT_COMMAND)[0][0]
            assert (hung > before) == (saga == "two_writes")
        with role(settings, tmp_path, "order-saga"):
            shop.wait(lambda: shop.rows(COUNT_COMPLETED) == [(orders - hung,)], within_s)
            assert shop.rows(COUNT_WITHOUT_COMMAND)[0][0] == hung
            shop.change("UPDATE saga_state SET deadline_at = clock_timestamp() WHERE deadline_at IS NOT NULL")
            shop.wait(shop.all_ended, within_s)
        assert sum(shop.status_of(order) == "CANCELLED" for order in made) == hung


@contextmanager
def role(settings: Settings, folder: Path, group: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A consumer process of one group; ended after the block if it has not ended by itself."""
    with (folder / "role.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.cli", "consume", group],
            env={**os.environ, **wiring.as_environment(settings), **more},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
