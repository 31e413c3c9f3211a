"""A gateway that calls back: what it may say of a payment, and the event that tells of it."""

from collections.abc import Iterator
from decimal import Decimal
from uuid import uuid4

import pytest
import requests
from sqlalchemy import text

from core.commands.payments import store_payments
from core.domain.payments import Payment, PaymentStatus
from tests.system.api_server import Api, api_on, problem_of

ORDER_ID = str(uuid4())
KEY = f"pay-{ORDER_ID}"


@pytest.fixture
def api(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        pending = Payment(KEY, ORDER_ID, PaymentStatus.PENDING, 0, "1001", "c-1", Decimal("20.00"), "CREDIT")
        with running.engine.begin() as connection:
            store_payments(connection, running.shop, [pending])
        yield running


def say(api: Api, word: str, key: str = KEY, scopes: tuple[str, ...] = ("admin",)) -> requests.Response:
    body = {"reason": "card declined"} if word == "fail" else None
    return api.call("POST", f"/api/v1/payments/{key}/{word}", "gateway", scopes=scopes, json=body)


def events(api: Api) -> list[tuple[str, str, int | None]]:
    with api.engine.connect() as connection:
        rows = connection.execute(text("SELECT event_type, aggregate_id, sequence FROM event JOIN pending USING (id)"))
        return [tuple(row) for row in rows]


@pytest.mark.row("S1.1", "S1.2", "S1.5", "S1.7")
@pytest.mark.parametrize(
    ("word", "status", "event"),
    [("complete", "COMPLETED", "PaymentCompleted"), ("fail", "FAILED", "PaymentFailed")],
)
def test_a_pending_payment_is_completed_or_failed_once_with_its_event(
    api: Api, word: str, status: str, event: str
) -> None:
    answer = say(api, word).json()
    assert (answer["status"], answer["orderId"], answer["amount"]) == (status, ORDER_ID, 20.0)
    assert answer["failureReason"] == ("card declined" if word == "fail" else None)
    for again in ("complete", "fail"):
        assert status in problem_of(say(api, again), 409)["detail"]
    assert events(api) == [(event, ORDER_ID, 1)]
    # One transaction wrote all three rows: there is no instant between them at which a crash could lose the event.
    wrote = "SELECT xmin::text FROM payment UNION SELECT xmin::text FROM event UNION SELECT xmin::text FROM pending"
    with api.engine.connect() as connection:
        assert len(connection.execute(text(wrote)).all()) == 1


@pytest.mark.row("S1.5")
def test_a_payment_whose_outbox_row_cannot_be_saved_is_not_completed(api: Api) -> None:
    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE pending ADD CONSTRAINT broken CHECK (false)"))
    problem_of(say(api, "complete"), 500)
    with api.engine.begin() as connection:
        assert connection.execute(text("SELECT status FROM payment")).scalar_one() == "PENDING"
        connection.execute(text("ALTER TABLE pending DROP CONSTRAINT broken"))
    assert say(api, "complete").json()["status"] == "COMPLETED"
    assert events(api) == [("PaymentCompleted", ORDER_ID, 1)]


def test_a_customer_cannot_say_that_it_was_paid(api: Api) -> None:
    problem_of(say(api, "complete", scopes=()), 403)
    problem_of(say(api, "complete", key="pay-unknown"), 404)
    assert events(api) == []
