"""Routes of orders: /orders, /orders/{id}."""

import re
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Query, Request, Response

from core.api.body import JsonRoute
from core.api.models import (
    CancelRequest,
    OrderAnswer,
    OrderPage,
    OrderRequest,
    StatusAnswer,
    StatusRequest,
    problems_of,
)
from core.api.problems import Problem
from core.api.tokens import ADMIN, TokenSettings, caller_of
from core.commands.context import Context
from core.commands.orders import (
    CreateOrder,
    CreatesOrder,
    cancel_order,
    change_order_status,
    confirm_order,
    create_order,
)
from core.commands.requests import Answer, ask_of
from core.domain.orders import Line, OrderStatus
from core.queries.orders import find_order, list_orders

SAME_KEY = "Same key, same answer, for as long as answers are kept: 30 days where nothing else is set."
KEY = re.compile(r"[\x21-\x7e]{1,100}")
PROBLEMS = problems_of(400, 401, 413, 422, 503)
CHANGE_PROBLEMS = problems_of(400, 401, 404, 409, 413, 422, 503)
STATUS_PROBLEMS = problems_of(400, 401, 403, 404, 409, 413, 422, 503)


def orders_router(context: Context, tokens: TokenSettings, create: CreatesOrder = create_order) -> APIRouter:
    router = APIRouter(tags=["orders"], route_class=JsonRoute)

    @router.post("/orders", status_code=201, response_model=OrderAnswer, responses=PROBLEMS)
    def post_order(
        request: Request,
        body: OrderRequest,
        idempotency_key: Annotated[str | None, Header(description=SAME_KEY)] = None,
    ) -> Response:
        """Create an order. It answers at once; stock, payment and mail follow by events."""
        caller = caller_of(tokens, request)
        correlation_id = correlation_of(idempotency_key, context)
        command = CreateOrder(
            customer_id=caller.id,
            lines=tuple(Line(item.product_id, item.quantity, item.price) for item in body.items),
            buyer_email=caller.email,
            shipping_address=body.shipping_address,
            card_type=body.card_type,
        )
        ask = ask_of(caller.id, idempotency_key, "POST orders", command)
        return created("orders", create(context, command, correlation_id, ask), correlation_id)

    @router.get("/orders/{order_id}", response_model=OrderAnswer, responses=problems_of(401, 404, 503))
    def get_order(request: Request, order_id: str) -> Response:
        """One order of the caller's own; another's is 404."""
        caller = caller_of(tokens, request)
        with context.engine.connect() as connection:
            found = find_order(connection, context.shop, uuid_of(order_id, "order"), caller.id)
        if found is None:
            raise Problem(404, f"There is no order {order_id}.")
        return Response(orjson.dumps(found, default=float), media_type="application/json")

    @router.get("/orders", response_model=OrderPage, responses=PROBLEMS)
    def get_orders(
        request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, before: str | None = None
    ) -> Response:
        """The caller's own orders, newest first."""
        caller = caller_of(tokens, request)
        older_than = uuid_of(before, "order") if before is not None else None
        with context.engine.connect() as connection:
            found = list_orders(connection, context.shop, caller.id, limit + 1, older_than)
        page = found[:limit]
        content = {"orders": page, "nextBefore": page[-1]["id"] if len(found) > limit else None}
        return Response(orjson.dumps(content, default=float), media_type="application/json")

    @router.post("/orders/{order_id}/confirm", response_model=OrderAnswer, responses=CHANGE_PROBLEMS)
    def post_confirm(request: Request, order_id: str) -> Response:
        """PENDING becomes CONFIRMED; 409 from any other state, and where its stock was refused."""
        caller = caller_of(tokens, request)
        confirm_order(context, uuid_of(order_id, "order"), caller.id, context.new_id())
        return get_order(request, order_id)

    @router.post("/orders/{order_id}/cancel", response_model=OrderAnswer, responses=CHANGE_PROBLEMS)
    def post_cancel(request: Request, order_id: str, body: CancelRequest) -> Response:
        """CANCELLED, unless it is shipped (409). An order that is cancelled already stays as it is."""
        caller = caller_of(tokens, request)
        cancelled_by = body.cancelled_by or caller.id
        cancel_order(context, uuid_of(order_id, "order"), caller.id, context.new_id(), body.reason, cancelled_by)
        return get_order(request, order_id)

    @router.patch("/orders/{order_id}/status", response_model=StatusAnswer, responses=STATUS_PROBLEMS)
    def patch_status(request: Request, order_id: str, body: StatusRequest) -> Response:
        """A seller has shipped or delivered its items of a paid order: PAID, SHIPPED, DELIVERED, else 409.

        The caller is the seller, or has the admin scope.
        """
        caller = caller_of(tokens, request)
        if caller.id != body.seller_id and ADMIN not in caller.scopes:
            raise Problem(403, "Only the seller itself, or a token with the scope `admin`, may say this.")
        order = change_order_status(
            context, uuid_of(order_id, "order"), body.seller_id, OrderStatus(body.status), context.new_id()
        )
        content = {
            "orderId": order.id,
            "sellerId": body.seller_id,
            "status": body.status,
            "orderStatus": order.status.value,
        }
        return Response(orjson.dumps(content), media_type="application/json")

    return router


def correlation_of(idempotency_key: str | None, context: Context) -> str:
    """The Idempotency-Key, or a new id: what joins HTTP, outbox, wire and effects."""
    if idempotency_key is None:
        return context.new_id()
    if not KEY.fullmatch(idempotency_key):
        raise Problem(400, "An Idempotency-Key is 1 to 100 visible ASCII characters.")
    return idempotency_key


def created(kind: str, answer: Answer, correlation_id: str) -> Response:
    """The answer, with the place of what was made: /api/v1/`kind`/{id}."""
    made = orjson.loads(answer.body)["id"]
    headers = {"Location": f"/api/v1/{kind}/{made}", "X-Correlation-Id": correlation_id}
    if answer.is_repeat:
        headers["Idempotent-Replay"] = "true"
    return Response(answer.body, answer.status, headers, media_type="application/json")


def uuid_of(text: str, kind: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Problem(404, f"There is no {kind} {text}.") from None
