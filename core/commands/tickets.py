"""Apply for tickets of a show: ticket, event and pending row in one transaction, or none."""

from typing import NamedTuple

import orjson
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from core.commands.context import Context, envelope_of
from core.commands.requests import Answer, Ask, find_answer, keep_answer
from core.domain import tickets
from core.domain.tickets import Ticket


class ApplyForTicket(NamedTuple):
    """Holds no phone number any more: what is compared, stored and published comes from here."""

    customer_id: str
    phone_hash: str
    phone_masked: str
    show: str


def apply_for_ticket(context: Context, command: ApplyForTicket, correlation_id: str, ask: Ask | None) -> Answer:
    """Write an APPLIED ticket and its TicketApplied; return 201 with the ticket, or the answer given to `ask` before.

    Raises KeyReused.
    """
    ticket, raised = tickets.apply(context.new_id(), **command._asdict(), applied_at=context.now())
    answer = Answer(201, orjson.dumps(content_of(ticket)))
    envelopes = [envelope_of(raised, context.new_id(), ticket.applied_at, correlation_id)]
    try:
        with context.engine.begin() as connection:
            if ask is not None:
                keep_answer(connection, context.shop, ask, answer, ticket.id)
            row = ticket.__dict__ | {"status": ticket.status.value}
            connection.execute(insert(context.shop.ticket), row)
            context.write(connection, envelopes)
    except IntegrityError:
        given = find_answer(context, ask)
        if given is None:
            raise
        return given
    context.committed(envelopes)
    return answer


def content_of(ticket: Ticket) -> dict[str, object]:
    """The ticket in the form of the API."""
    return {
        "id": ticket.id,
        "customerId": ticket.customer_id,
        "show": ticket.show,
        "phoneMasked": ticket.phone_masked,
        "status": ticket.status.value,
        "appliedAt": ticket.applied_at,
    }
