"""The port to the payment gateway: what payment-service asks of the outside world, and what it may be answered.

A gateway that fails to answer raises: the call may have been made. Whoever calls repeats it with the same key, which a
good gateway honours: one key is one charge, however often it is asked for.
"""

from decimal import Decimal
from typing import Literal, NamedTuple, Protocol

ChargeStatus = Literal["completed", "failed", "pending"]


class Charge(NamedTuple):
    status: ChargeStatus
    """`pending`: the gateway will call back, see POST /payments/{transactionKey}/complete and /fail."""
    reason: str | None = None
    """Why it failed."""


class Gateway(Protocol):
    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        """Charge once for the key. Raises when there is no answer: then nobody here knows whether it was made."""

    def cancel(self, idempotency_key: str) -> None:
        """Refund what was charged under the key, or refuse a charge that is still to come. Raises like `charge`."""


class ApprovingGateway:
    """For development without an outside world: in this process, approves all that was not cancelled before."""

    def __init__(self) -> None:
        self._cancelled: set[str] = set()

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        if idempotency_key in self._cancelled:
            return Charge("failed", "cancelled before it was charged")
        return Charge("completed")

    def cancel(self, idempotency_key: str) -> None:
        self._cancelled.add(idempotency_key)
