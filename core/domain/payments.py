"""A payment: one an order, charged by a gateway under its transaction key.

PENDING -> COMPLETED -> CANCELLED, PENDING -> FAILED, PENDING -> CANCELLED. A cancellation that comes before its request
leaves a payment CANCELLED at version 0, which refuses that request when it comes.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from core.domain.events import Event, PaymentCancelled, PaymentCompleted, PaymentFailed, ProcessPayment, Raised
from core.domain.rules import ForbiddenState

BY_CARD = "CARD"


class PaymentStatus(StrEnum):
    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Payment:
    transaction_key: str
    order_id: str
    status: PaymentStatus
    version: int = 0
    """Events raised so far: a PENDING payment has raised none."""
    order_number: str = ""
    customer_id: str = ""
    amount: Decimal = Decimal("0.00")
    card_type: str = ""
    method: str = BY_CARD
    failure_reason: str | None = None


def transaction_key_of(order_id: str) -> str:
    """The same for every try to charge the order, so that the gateway charges it once."""
    return f"pay-{order_id}"


def request(command: ProcessPayment, before: Payment | None) -> tuple[Payment, Raised | None] | None:
    """A PENDING payment to be charged; FAILED with its event if it was cancelled before.

    None: it was asked for before.
    """
    asked = Payment(
        transaction_key=transaction_key_of(command.order_id),
        order_id=command.order_id,
        status=PaymentStatus.PENDING,
        order_number=command.order_number,
        customer_id=command.customer_id,
        amount=command.total_amount,
        card_type=command.card_type,
    )
    if before is None:
        return asked, None
    if before.status is PaymentStatus.CANCELLED and before.version == 0:
        return fail(asked, f"cancelled before it was asked for: {before.failure_reason}")
    return None


def complete(payment: Payment) -> tuple[Payment, Raised]:
    """COMPLETED. Raises ForbiddenState from any state but PENDING."""
    _check_pending(payment, "completed")
    changed = replace(payment, status=PaymentStatus.COMPLETED, version=payment.version + 1)
    return changed, event_of(changed)


def fail(payment: Payment, reason: str) -> tuple[Payment, Raised]:
    """FAILED with its reason. Raises ForbiddenState from any state but PENDING."""
    _check_pending(payment, "failed")
    changed = replace(payment, status=PaymentStatus.FAILED, version=payment.version + 1, failure_reason=reason)
    return changed, event_of(changed)


def cancel(order_id: str, before: Payment | None, reason: str) -> tuple[Payment, Raised | None] | None:
    """CANCELLED, the gateway still to be told; before its request only a note. None: there is nothing to cancel."""
    if before is None:
        return Payment(transaction_key_of(order_id), order_id, PaymentStatus.CANCELLED, failure_reason=reason), None
    if before.status in (PaymentStatus.FAILED, PaymentStatus.CANCELLED):
        return None
    changed = replace(before, status=PaymentStatus.CANCELLED, version=before.version + 1, failure_reason=reason)
    return changed, event_of(changed)


def event_of(payment: Payment) -> Raised:
    """The event that its newest version made, told from the payment alone. ValueError: it has raised none yet."""
    if payment.version < 1:
        raise ValueError(f"payment {payment.transaction_key} is {payment.status} and has raised no event")
    return Raised(payment.order_id, payment.version, _told(payment))


def _told(payment: Payment) -> Event:
    if payment.status is PaymentStatus.CANCELLED:
        return PaymentCancelled(
            payment_id=payment.transaction_key,
            order_id=payment.order_id,
            amount=payment.amount,
            reason=payment.failure_reason or "",
        )
    charged: dict[str, Any] = {
        "payment_id": payment.transaction_key,
        "order_id": payment.order_id,
        "order_number": payment.order_number,
        "customer_id": payment.customer_id,
        "amount": payment.amount,
        "card_type": payment.card_type,
        "payment_method": payment.method,
    }
    if payment.status is PaymentStatus.COMPLETED:
        return PaymentCompleted(**charged)
    return PaymentFailed(**charged, reason=payment.failure_reason or "")


def _check_pending(payment: Payment, change: str) -> None:
    if payment.status is not PaymentStatus.PENDING:
        raise ForbiddenState("Payment", payment.transaction_key, payment.status, change)
