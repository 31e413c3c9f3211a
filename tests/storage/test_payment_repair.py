"""Payments that were completed by a service which only logs that it could not save the event: found, and told of once.

No broker: the event goes the usual way afterwards.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from core.commands.context import Context
from core.commands.payments import complete_payment, fail_payment, store_payments, tell_untold
from core.domain.payments import Payment, PaymentStatus
from core.messaging.envelope import Envelope
from core.outbox.rows import OutboxSink
from testbed import wiring
from testbed.cli import application
from testbed.settings import Settings

log = logging.getLogger(__name__)


class OnlyLogs(OutboxSink):
    """The article's flaw: the payment stands, although its event could not be saved."""

    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        try:
            with target.begin_nested():
                super().write(target, envelopes)
        except DBAPIError:
            log.error("outbox row not saved")


@dataclass
class Till:
    settings: Settings
    database: wiring.Database

    def context(self, sink: type[OutboxSink] = OutboxSink) -> Context:
        return Context(self.database.engine, self.database.shop, sink(self.database.messaging))

    def ask(self, *order_ids: str) -> None:
        """PENDING payments of these orders."""
        asked = [
            Payment(f"pay-{id_}", id_, PaymentStatus.PENDING, 0, "1001", "c-1", Decimal("20.00"), "CREDIT")
            for id_ in order_ids
        ]
        with self.database.engine.begin() as connection:
            store_payments(connection, self.database.shop, asked)

    def complete_by_the_flawed_service(self, *order_ids: str) -> None:
        self.ask(*order_ids)
        self.change("ALTER TABLE pending ADD CONSTRAINT broken CHECK (false)")
        for id_ in order_ids:
            complete_payment(self.context(OnlyLogs), f"pay-{id_}", "c-7")
        self.change("ALTER TABLE pending DROP CONSTRAINT broken")

    def repair(self, at_most: int = 1_000) -> list[str]:
        return tell_untold(self.context(), self.database.messaging, None, at_most)

    def change(self, sql: str, **values: object) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(sql), values)

    def outbox(self) -> list[tuple[Any, ...]]:
        """(event type, order, sequence) of each row that waits to be sent."""
        sql = "SELECT event_type, aggregate_id, sequence FROM event JOIN pending USING (id) ORDER BY id"
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql))]

    def cli(self, *words: str) -> tuple[int, str]:
        environment = wiring.as_environment(self.settings)
        done = CliRunner().invoke(application(["repair"]), ["repair", *words], env=environment)
        return done.exit_code, done.output


@pytest.fixture
def till(database: str) -> Iterator[Till]:
    settings = Settings(broker="kafka", database_url=database)
    opened = wiring.open_database(settings)
    opened.create()
    yield Till(settings, opened)
    opened.engine.dispose()


def orders(count: int) -> list[str]:
    return sorted(str(uuid4()) for _ in range(count))


@pytest.mark.row("S1.6")
def test_each_payment_without_an_event_gets_it_once_however_often_it_is_repaired(
    till: Till, caplog: pytest.LogCaptureFixture
) -> None:
    lost, sound, failed, open_ = orders(3), *orders(3)
    till.complete_by_the_flawed_service(*lost)
    assert caplog.messages.count("outbox row not saved") == 3
    till.ask(sound, failed, open_)
    complete_payment(till.context(), f"pay-{sound}", "c-8")
    fail_payment(till.context(), f"pay-{failed}", "c-9", "card declined")
    written = [("PaymentCompleted", sound, 1), ("PaymentFailed", failed, 1)]
    assert till.outbox() == written, "the flaw left nothing to send"

    assert till.repair(at_most=2) == lost[:2]
    assert till.repair() == lost[2:]
    repaired = [*written, *(("PaymentCompleted", order, 1) for order in lost)]
    assert till.outbox() == repaired
    assert till.repair() == []
    assert till.outbox() == repaired
    bodies = "SELECT count(DISTINCT CAST(payload AS jsonb) - 'orderId' - 'paymentId') FROM event WHERE event_type = :t"
    with till.database.engine.connect() as connection:
        assert connection.execute(text(bodies), {"t": "PaymentCompleted"}).scalar_one() == 1, "told as if at once"


@pytest.mark.row("S1.6")
def test_of_several_repairs_at_once_one_tells(till: Till) -> None:
    lost = orders(40)
    till.complete_by_the_flawed_service(*lost)
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda _: till.repair(), range(4)))
    assert sorted(order for one in told for order in one) == lost
    assert sorted(till.outbox()) == [("PaymentCompleted", order, 1) for order in lost]


def test_a_payment_failed_or_cancelled_in_silence_is_told_of_too_and_one_never_asked_for_is_not(till: Till) -> None:
    failed, cancelled, noted = orders(3)
    with till.database.engine.begin() as connection:
        store_payments(
            connection,
            till.database.shop,
            [
                Payment(f"pay-{failed}", failed, PaymentStatus.FAILED, 1, failure_reason="card declined"),
                Payment(f"pay-{cancelled}", cancelled, PaymentStatus.CANCELLED, 2, failure_reason="timed out"),
                Payment(f"pay-{noted}", noted, PaymentStatus.CANCELLED, 0, failure_reason="never asked for"),
            ],
        )
    assert till.repair() == [failed, cancelled]
    assert till.outbox() == [("PaymentFailed", failed, 1), ("PaymentCancelled", cancelled, 2)]


def test_the_command_goes_no_further_back_than_events_are_kept_unless_told_to(till: Till) -> None:
    oldest, old, new = orders(3)
    till.complete_by_the_flawed_service(oldest, old, new)
    ages = ((oldest, 1, "now() - interval '30 days'"), (old, 2, "now() - interval '8 days'"), (new, 3, "now()"))
    for id_, number, at in ages:
        till.change(
            "INSERT INTO orders (id, order_number, customer_id, original_total, total_amount, created_at)"
            f" VALUES (:id, :number, 'c-1', 20, 20, {at})",
            id=UUID(id_),
            number=number,
        )
    code, said = till.cli("--json")
    assert (code, json.loads(said)) == (0, [{"order": new}]), "for as long as events are kept"
    assert till.cli() == (0, "no payment lacks its event\n")
    code, said = till.cli("--since", f"{datetime.now(UTC) - timedelta(days=9):%Y-%m-%dT%H:%M:%SZ}", "--json")
    assert (code, json.loads(said)) == (0, [{"order": old}])
    assert till.outbox() == [("PaymentCompleted", new, 1), ("PaymentCompleted", old, 1)]
