"""payment-service on a real PostgreSQL: what is asked of the gateway, and what its answer makes of the payment."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, MetaData, text

from core.commands.context import envelope_of, new_uuid7
from core.domain.events import CancelPayment, Event, OrderCancelled, ProcessPayment, Raised
from core.effects.gateway import Charge
from core.effects.outside_world import SimulatedOutsideWorld
from core.effects.payment_service import CALLS, take_payments
from core.inbox.handlers import Ignored
from core.inbox.outside import OutsideCaller
from core.inbox.retries import RetryPolicy
from core.messaging.envelope import Envelope
from core.outbox.rows import OutboxSink
from core.storage.database import create_database_engine
from core.storage.schema import create_schema
from core.storage.shop import ShopTables, shop_tables
from core.storage.tables import MessagingTables, messaging_tables

AGAIN_AT_ONCE = RetryPolicy(tries=None, first_delay_s=0.01, max_delay_s=0.01, jitter=False)


class Gateway(SimulatedOutsideWorld):
    """Answers what it is told to; an exception among the answers: no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Charge | Exception] = []
        self.calls: list[str] = []

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        self.calls.append(f"charge {idempotency_key} {amount}")
        answer = self.answers.pop(0) if self.answers else Charge("completed")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancel(self, idempotency_key: str) -> None:
        self.calls.append(f"cancel {idempotency_key}")


@dataclass
class Payments:
    engine: Engine
    tables: MessagingTables
    shop: ShopTables
    gateway: Gateway = field(default_factory=Gateway)

    def __post_init__(self) -> None:
        assert CALLS.settle is not None
        self.caller = OutsideCaller(
            self.engine,
            CALLS.table(self.shop),
            CALLS.call(self.gateway),
            settle=CALLS.settle(self.shop),
            sink=OutboxSink(self.tables),
            retry=AGAIN_AT_ONCE,
        )

    def handle(self, *envelopes: Envelope) -> list[object]:
        """In the inbox transaction; then the calls."""
        done = self.reserve(*envelopes)
        self.caller.call_for(envelopes)
        return done

    def reserve(self, *envelopes: Envelope) -> list[object]:
        with self.engine.begin() as connection:
            result = take_payments(self.shop)(connection, envelopes)
            OutboxSink(self.tables).write(connection, result.publish)
        return list(result.done)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def statuses(self) -> list[str]:
        return [status for (status,) in self.rows("SELECT status FROM payment ORDER BY order_id")]

    def told(self) -> list[tuple[str, int]]:
        return [(row[0], row[1]) for row in self.rows("SELECT event_type, sequence FROM event ORDER BY id")]


@pytest.fixture
def payments(database: str) -> Iterator[Payments]:
    engine = create_database_engine(database)
    metadata = MetaData()
    tables, shop = messaging_tables(metadata), shop_tables(metadata)
    create_schema(engine, metadata, tables)
    yield Payments(engine, tables, shop)
    engine.dispose()


ORDER_ID = str(uuid4())
KEY = f"pay-{ORDER_ID}"
WHO = {"order_id": ORDER_ID, "order_number": "1001", "customer_id": "c-1"}


def envelope(event: Event) -> Envelope:
    return envelope_of(Raised(ORDER_ID, 1, event), new_uuid7(), datetime.now(UTC), "c-7")


def asked() -> Envelope:
    return envelope(ProcessPayment(**WHO, total_amount=Decimal("20.00"), card_type="CREDIT"))  # type: ignore[arg-type]


def called_off() -> Envelope:
    return envelope(CancelPayment(order_id=ORDER_ID, reason="timed out"))


@pytest.mark.row("S1.5")
def test_the_gateway_is_asked_once_and_its_answer_is_written_with_the_event_that_tells_of_it(
    payments: Payments,
) -> None:
    one = asked()
    assert payments.handle(one) == ["payment_requested"]
    assert payments.gateway.calls == [f"charge {KEY} 20.00"]
    assert (payments.statuses(), payments.told()) == (["COMPLETED"], [("PaymentCompleted", 1)])
    assert payments.rows("SELECT correlation_id, causation_id FROM event JOIN pending USING (id)") == [("c-7", one.id)]
    wrote = "SELECT xmin::text FROM payment UNION SELECT xmin::text FROM event UNION SELECT xmin::text FROM pending"
    assert len(payments.rows(wrote)) == 1, "payment, event and outbox row are of one transaction"
    assert payments.handle(asked()) == [Ignored("its payment is COMPLETED")]
    assert payments.caller.sweep() == 0
    assert len(payments.gateway.calls) == 1


def test_a_declined_card_fails_the_payment_with_the_gateway_s_reason(payments: Payments) -> None:
    payments.gateway.answers = [Charge("failed", "card declined")]
    payments.handle(asked())
    assert payments.rows("SELECT status, failure_reason FROM payment") == [("FAILED", "card declined")]
    assert payments.told() == [("PaymentFailed", 1)]


def test_a_gateway_that_calls_back_leaves_the_payment_open(payments: Payments) -> None:
    payments.gateway.answers = [Charge("pending")]
    payments.handle(asked())
    assert (payments.statuses(), payments.told()) == (["PENDING"], [])
    assert payments.caller.sweep() == 0


def test_a_gateway_that_keeps_silent_is_asked_again_under_the_same_key(payments: Payments) -> None:
    payments.gateway.answers = [TimeoutError("no answer"), Charge("completed")]
    payments.handle(asked())
    assert (payments.statuses(), payments.told()) == (["PENDING"], [])
    while payments.statuses() != ["COMPLETED"]:
        payments.caller.sweep()
    assert payments.gateway.calls == [f"charge {KEY} 20.00"] * 2
    assert payments.told() == [("PaymentCompleted", 1)]


def test_a_completed_payment_that_is_called_off_is_paid_back_once(payments: Payments) -> None:
    payments.handle(asked())
    assert payments.handle(called_off()) == ["payment_cancelled"]
    cancelled = OrderCancelled(
        **WHO,  # type: ignore[arg-type]
        original_total_amount=Decimal("20.00"),
        discount_amount=Decimal("0.00"),
        total_amount=Decimal("20.00"),
        reason="timed out",
        cancelled_by="order-saga",
    )
    assert payments.handle(envelope(cancelled)) == [Ignored("its payment is CANCELLED")]
    assert payments.gateway.calls == [f"charge {KEY} 20.00", f"cancel {KEY}"]
    assert payments.told() == [("PaymentCompleted", 1), ("PaymentCancelled", 2)]


def test_a_payment_asked_for_and_called_off_in_one_batch_is_never_charged(payments: Payments) -> None:
    assert payments.handle(asked(), called_off()) == ["payment_requested", "payment_cancelled"]
    assert payments.gateway.calls == [f"cancel {KEY}"]
    assert (payments.statuses(), payments.told()) == (["CANCELLED"], [("PaymentCancelled", 1)])


def test_a_charge_that_failed_is_not_made_again_after_the_payment_was_called_off(payments: Payments) -> None:
    payments.gateway.answers = [TimeoutError("no answer")]
    payments.handle(asked())
    payments.handle(called_off())
    while payments.rows("SELECT FROM payment_call WHERE status = 'RESERVED'"):
        payments.caller.sweep()
    assert payments.gateway.calls == [f"charge {KEY} 20.00", f"cancel {KEY}"]
    assert payments.statuses() == ["CANCELLED"]


def test_an_answer_that_comes_after_the_payment_was_called_off_changes_nothing(payments: Payments) -> None:
    one = asked()
    payments.reserve(one)
    answered = Charge("completed")

    def charge_while_it_is_called_off(*_: object) -> Charge:
        payments.reserve(called_off())
        return answered

    payments.gateway.charge = charge_while_it_is_called_off  # type: ignore[method-assign]
    payments.caller.call_for([one])
    assert (payments.statuses(), payments.told()) == (["CANCELLED"], [("PaymentCancelled", 1)])
    while payments.rows("SELECT FROM payment_call WHERE status = 'RESERVED'"):
        payments.caller.sweep()
    assert payments.gateway.calls == [f"cancel {KEY}"]


def test_a_cancellation_that_overtakes_its_request_refuses_it_without_a_call(payments: Payments) -> None:
    assert payments.handle(called_off()) == ["cancel_noted"]
    assert payments.handle(asked()) == ["payment_refused"]
    assert payments.gateway.calls == []
    assert (payments.statuses(), payments.told()) == (["FAILED"], [("PaymentFailed", 1)])
