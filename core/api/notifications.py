"""The route of notifications."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from core.api.body import JsonRoute
from core.api.models import BIGINT_MAX, NotificationPage, problems_of
from core.api.tokens import TokenSettings, caller_of
from core.commands.context import Context
from core.queries.notifications import list_notifications


def notifications_router(context: Context, tokens: TokenSettings) -> APIRouter:
    router = APIRouter(tags=["notifications"], route_class=JsonRoute)

    @router.get("/notifications", response_model=NotificationPage, responses=problems_of(401, 422, 503))
    def get_notifications(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[int | None, Query(ge=1, le=BIGINT_MAX)] = None,
    ) -> Response:
        """What the caller was told, newest first; one entry an event and channel. They follow the orders by events."""
        caller = caller_of(tokens, request)
        with context.engine.connect() as connection:
            found = list_notifications(connection, context.shop, caller.id, limit + 1, before)
        page = found[:limit]
        content = {"notifications": page, "nextBefore": page[-1]["id"] if len(found) > limit else None}
        return Response(orjson.dumps(content), media_type="application/json")

    return router
