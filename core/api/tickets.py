"""Routes of ticket applications. The phone number ends here: it goes into no row, no message and no log."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Request, Response

from core.api.body import JsonRoute
from core.api.models import TicketAnswer, TicketRequest, problems_of
from core.api.orders import SAME_KEY, correlation_of, created, uuid_of
from core.api.problems import Problem
from core.api.tokens import TokenSettings, caller_of
from core.commands.context import Context
from core.commands.requests import ask_of
from core.commands.tickets import ApplyForTicket, apply_for_ticket
from core.domain.tickets import hash_of_phone, mask_of_phone, plain_phone
from core.queries.tickets import find_ticket

PROBLEMS = problems_of(400, 401, 413, 422, 503)


def tickets_router(context: Context, tokens: TokenSettings, phone_key: bytes) -> APIRouter:
    """`phone_key`: what the hash of a phone number is keyed with."""
    router = APIRouter(tags=["tickets"], route_class=JsonRoute)

    @router.post("/tickets", status_code=201, response_model=TicketAnswer, responses=PROBLEMS)
    def post_ticket(
        request: Request,
        body: TicketRequest,
        idempotency_key: Annotated[str | None, Header(description=SAME_KEY)] = None,
    ) -> Response:
        """Apply for tickets of a show. The phone number is kept as a keyed hash and a mask."""
        caller = caller_of(tokens, request)
        correlation_id = correlation_of(idempotency_key, context)
        phone = plain_phone(body.phone.get_secret_value())
        command = ApplyForTicket(caller.id, hash_of_phone(phone, phone_key), mask_of_phone(phone), body.show)
        ask = ask_of(caller.id, idempotency_key, "POST tickets", command)
        return created("tickets", apply_for_ticket(context, command, correlation_id, ask), correlation_id)

    @router.get("/tickets/{ticket_id}", response_model=TicketAnswer, responses=problems_of(401, 404, 503))
    def get_ticket(request: Request, ticket_id: str) -> Response:
        """One application of the caller's own; another's is 404."""
        caller = caller_of(tokens, request)
        with context.engine.connect() as connection:
            found = find_ticket(connection, context.shop, uuid_of(ticket_id, "ticket"), caller.id)
        if found is None:
            raise Problem(404, f"There is no ticket {ticket_id}.")
        return Response(orjson.dumps(found), media_type="application/json")

    return router
