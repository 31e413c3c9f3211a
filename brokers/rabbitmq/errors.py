"""Where pika's and aio-pika's errors become the port's. None of their texts holds a password."""

import re
from typing import NamedTuple

from core.messaging.errors import BrokerError, BrokerUnavailable, TopologyMismatch

NOT_FOUND, LOCKED, PRECONDITION_FAILED = 404, 405, 406

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>\w+) '(?P<name>[^']+)'"
    r".*?received (?P<wanted>.+?) but current is (?P<found>.+)$",
    re.DOTALL,
)
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (\d+)")


class Loss(NamedTuple):
    """Why a link ended. `code`: AMQP's, 0 where the network or we ended it."""

    code: int
    reason: str


def loss_of(error: object) -> Loss:
    """Of what a client raised or handed to its close callback."""
    code = getattr(error, "reply_code", None) or getattr(error, "errno", None)
    text = getattr(error, "reply_text", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    if not isinstance(code, int) or not 200 <= code < 600:
        known = re.search(r"\b(403|404|405|406)\b|(NOT_FOUND|RESOURCE_LOCKED|PRECONDITION_FAILED)", str(error))
        names = {"NOT_FOUND": NOT_FOUND, "RESOURCE_LOCKED": LOCKED, "PRECONDITION_FAILED": PRECONDITION_FAILED}
        code = 0 if known is None else names.get(known[0]) or int(known[0])
    return Loss(code, str(text))


def largest_taken_bytes(loss: Loss) -> int | None:
    """The broker's own message limit, if that is what it closed the channel over."""
    found = _TOO_LARGE.search(loss.reason) if loss.code == PRECONDITION_FAILED else None
    return int(found[1]) if found else None


def mismatch_of(loss: Loss) -> BrokerError | None:
    """The declaration that differs from what exists, with its argument; None for any other loss."""
    if loss.code != PRECONDITION_FAILED:
        return None
    found = _INEQUIVALENT.search(loss.reason)
    if found is None:
        return BrokerError(f"RabbitMQ refused a declaration: {loss.reason}")
    return TopologyMismatch(f"{found['kind']} {found['name']}", found["argument"], found["wanted"], found["found"])


def unavailable(address: str, waited_s: float, loss: Loss) -> BrokerUnavailable:
    return BrokerUnavailable("RabbitMQ", address, waited_s, loss.reason)
