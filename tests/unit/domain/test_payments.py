"""A payment's states: what each allows, and the event each change raises."""

from dataclasses import replace
from decimal import Decimal

import pytest

from core.domain.events import PaymentCancelled, PaymentCompleted, PaymentFailed, ProcessPayment, Raised
from core.domain.payments import Payment, PaymentStatus, cancel, complete, event_of, fail, request
from core.domain.rules import ForbiddenState

ASKED = ProcessPayment(
    order_id="o-1", order_number="1001", customer_id="c-1", total_amount=Decimal("20.00"), card_type="CREDIT"
)
PENDING = Payment(
    "pay-o-1", "o-1", PaymentStatus.PENDING, 0, "1001", "c-1", Decimal("20.00"), "CREDIT", "CARD", None
)  # fmt: skip


def payment(status: PaymentStatus) -> Payment:
    return replace(PENDING, status=status, version=0 if status is PaymentStatus.PENDING else 1)


def test_a_payment_asked_for_is_pending_under_a_key_that_every_repeat_shares() -> None:
    assert request(ASKED, None) == (PENDING, None)


@pytest.mark.row("S1.1")
def test_completing_raises_one_event_with_the_payment_s_five_fields() -> None:
    changed, raised = complete(PENDING)
    assert (changed.status, changed.version) == (PaymentStatus.COMPLETED, 1)
    assert raised == Raised(
        "o-1",
        1,
        PaymentCompleted(
            payment_id="pay-o-1",
            order_id="o-1",
            order_number="1001",
            customer_id="c-1",
            amount=Decimal("20.00"),
            card_type="CREDIT",
            payment_method="CARD",
        ),
    )


@pytest.mark.row("S1.2")
def test_failing_keeps_the_reason_and_tells_it() -> None:
    changed, raised = fail(PENDING, "card declined")
    assert (changed.status, changed.failure_reason) == (PaymentStatus.FAILED, "card declined")
    assert isinstance(raised.event, PaymentFailed)
    assert (raised.event.reason, raised.event.amount) == ("card declined", Decimal("20.00"))


@pytest.mark.row("S1.2")
@pytest.mark.parametrize("status", [status for status in PaymentStatus if status is not PaymentStatus.PENDING])
def test_only_a_pending_payment_is_completed_or_failed_and_the_refusal_names_its_state(status: PaymentStatus) -> None:
    with pytest.raises(ForbiddenState, match=status):
        complete(payment(status))
    with pytest.raises(ForbiddenState, match=status):
        fail(payment(status), "late")


@pytest.mark.parametrize("status", PaymentStatus)
def test_a_payment_that_exists_is_not_asked_for_again(status: PaymentStatus) -> None:
    assert request(ASKED, payment(status)) is None


@pytest.mark.parametrize("status", [PaymentStatus.PENDING, PaymentStatus.COMPLETED])
def test_a_payment_on_its_way_or_completed_is_called_off_with_its_amount(status: PaymentStatus) -> None:
    before = payment(status)
    answer = cancel("o-1", before, "too late")
    assert answer is not None
    changed, raised = answer
    assert (changed.status, changed.version) == (PaymentStatus.CANCELLED, before.version + 1)
    assert raised is not None
    assert raised.event == PaymentCancelled(
        payment_id="pay-o-1", order_id="o-1", amount=Decimal("20.00"), reason="too late"
    )
    assert raised.sequence == changed.version


@pytest.mark.parametrize("status", [PaymentStatus.FAILED, PaymentStatus.CANCELLED])
def test_a_payment_that_took_nothing_is_not_called_off(status: PaymentStatus) -> None:
    assert cancel("o-1", payment(status), "too late") is None


def test_a_cancellation_that_overtakes_its_request_is_noted_and_the_late_request_fails() -> None:
    noted = cancel("o-1", None, "order cancelled")
    assert noted is not None
    early, nothing = noted
    assert (early.status, early.version, nothing) == (PaymentStatus.CANCELLED, 0, None)
    assert cancel("o-1", early, "again") is None
    refused = request(ASKED, early)
    assert refused is not None
    late, raised = refused
    assert (late.status, late.version) == (PaymentStatus.FAILED, 1)
    assert raised is not None
    assert isinstance(raised.event, PaymentFailed)
    assert raised.event.reason == "cancelled before it was asked for: order cancelled"
    assert request(ASKED, late) is None


def test_a_payment_that_raised_no_event_has_none_to_tell() -> None:
    with pytest.raises(ValueError, match="PENDING and has raised no event"):
        event_of(PENDING)
