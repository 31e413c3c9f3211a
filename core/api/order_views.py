"""Routes of the read model: /read/orders and /read/orders/{id}."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from core.api.body import JsonRoute
from core.api.models import OrderViewAnswer, OrderViewPage, Text, problems_of
from core.api.orders import uuid_of
from core.api.problems import Problem
from core.api.tokens import ADMIN, Caller, TokenSettings, caller_of
from core.commands.context import Context
from core.domain.orders import OrderStatus
from core.queries.order_views import find_view, list_views


def order_views_router(context: Context, tokens: TokenSettings) -> APIRouter:
    router = APIRouter(tags=["read model"], route_class=JsonRoute)

    @router.get("/read/orders/{order_id}", response_model=OrderViewAnswer, responses=problems_of(401, 404, 503))
    def get_view(request: Request, order_id: str) -> Response:
        """One order as projected so far: the caller's own, or any for the scope `admin`."""
        caller = caller_of(tokens, request)
        name = str(uuid_of(order_id, "order"))
        with context.engine.connect() as connection:
            found = find_view(connection, context.shop, name)
        if found is None or not _may_see(caller, found["customerId"]):
            raise Problem(404, f"There is no order {order_id}.")
        return Response(orjson.dumps(found, default=float), media_type="application/json")

    @router.get("/read/orders", response_model=OrderViewPage, responses=problems_of(401, 403, 404, 422, 503))
    def get_views(
        request: Request,
        customer_id: Annotated[Text | None, Query(alias="customerId", description="The caller, if left out.")] = None,
        status: OrderStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: str | None = None,
    ) -> Response:
        """Orders newest first, by customer, by status or both. Those of others need the scope `admin`."""
        caller = caller_of(tokens, request)
        if customer_id is None and ADMIN not in caller.scopes:
            customer_id = caller.id
        if customer_id is not None and not _may_see(caller, customer_id):
            raise Problem(403, f"Orders of others need a token with the scope `{ADMIN}`.")
        older_than = str(uuid_of(before, "order")) if before is not None else None
        with context.engine.connect() as connection:
            found = list_views(connection, context.shop, customer_id, status, limit + 1, older_than)
        page = found[:limit]
        content = {"orders": page, "nextBefore": page[-1]["id"] if len(found) > limit else None}
        return Response(orjson.dumps(content, default=float), media_type="application/json")

    return router


def _may_see(caller: Caller, customer_id: str) -> bool:
    return caller.id == customer_id or ADMIN in caller.scopes
