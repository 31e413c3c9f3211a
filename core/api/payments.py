"""Routes of a gateway that calls back: it had answered `pending`, and now says what became of the payment.

They need the admin scope: a gateway is no customer.
"""

import orjson
from fastapi import APIRouter, Response

from core.api.body import AdminRoute
from core.api.models import FailRequest, PaymentAnswer, problems_of
from core.api.problems import Problem
from core.commands.context import Context
from core.commands.payments import complete_payment, fail_payment
from core.domain.payments import Payment

PROBLEMS = problems_of(400, 401, 403, 404, 409, 413, 422, 503)


def payments_router(context: Context) -> APIRouter:
    router = APIRouter(tags=["payments"], route_class=AdminRoute)

    @router.post("/payments/{transaction_key}/complete", response_model=PaymentAnswer, responses=PROBLEMS)
    def post_complete(transaction_key: str) -> Response:
        """PENDING becomes COMPLETED; 409 from any other state."""
        return _answer(complete_payment(context, _known(transaction_key), context.new_id()))

    @router.post("/payments/{transaction_key}/fail", response_model=PaymentAnswer, responses=PROBLEMS)
    def post_fail(transaction_key: str, body: FailRequest) -> Response:
        """PENDING becomes FAILED, and the order is cancelled; 409 from any other state."""
        return _answer(fail_payment(context, _known(transaction_key), context.new_id(), body.reason))

    return router


def _known(transaction_key: str) -> str:
    if "\x00" in transaction_key:
        # No stored text holds it, and PostgreSQL refuses to look.
        raise Problem(404, "There is no such payment.")
    return transaction_key


def _answer(payment: Payment) -> Response:
    content = {
        "transactionKey": payment.transaction_key,
        "orderId": payment.order_id,
        "status": payment.status.value,
        "amount": payment.amount,
        "failureReason": payment.failure_reason,
    }
    return Response(orjson.dumps(content, default=float), media_type="application/json")
