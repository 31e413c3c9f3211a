"""Read a delivered event as the type a handler expects, and wrap what follows from it.

What cannot be read is poison, with its reason.
"""

from typing import TypeVar

from core.commands.context import envelope_of, new_uuid7, utc_now
from core.domain.events import Event, Raised, UnreadableEvent, from_json
from core.inbox.handlers import Poison
from core.messaging.envelope import Envelope

E = TypeVar("E", bound=Event)


def read(envelope: Envelope, expected: type[E]) -> E:
    """The payload. Raises Poison for an unknown type, a newer schema or a payload that does not fit."""
    try:
        event = from_json(envelope.type, envelope.schema_version, envelope.data)
    except UnreadableEvent as error:
        raise Poison(envelope.id, str(error)) from error
    if not isinstance(event, expected):
        raise Poison(envelope.id, f"{envelope.type} is not a {expected.__name__}")
    return event


def follow_up(raised: Raised, cause: Envelope) -> Envelope:
    """The next event or command, ready to travel: it keeps the correlation of what caused it."""
    return envelope_of(raised, new_uuid7(), utc_now(), cause.correlation_id, cause.id)
