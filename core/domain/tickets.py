"""An application for tickets of a show. The applicant's phone number is turned into a hash and a mask at the door.

The hash is keyed: phone numbers are so few that anybody could try them all against a plain one. The mask is for people.
"""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.domain.events import Raised, TicketApplied
from core.domain.rules import InvalidRequest

SHOWN_DIGITS = 4
_PUNCTUATION = re.compile(r"[\s().\-/]")
_PHONE = re.compile(r"\+?[0-9]{7,15}")


class TicketStatus(StrEnum):
    APPLIED = "APPLIED"


@dataclass(frozen=True)
class Ticket:
    id: str
    customer_id: str
    phone_hash: str
    phone_masked: str
    show: str
    status: TicketStatus
    version: int
    applied_at: datetime


def apply(
    ticket_id: str, customer_id: str, phone_hash: str, phone_masked: str, show: str, applied_at: datetime
) -> tuple[Ticket, Raised]:
    """An APPLIED ticket at version 1."""
    ticket = Ticket(ticket_id, customer_id, phone_hash, phone_masked, show, TicketStatus.APPLIED, 1, applied_at)
    event = TicketApplied(
        ticket_id=ticket_id,
        customer_id=customer_id,
        phone_hash=phone_hash,
        phone_masked=phone_masked,
        show=show,
        applied_at=applied_at,
    )
    return ticket, Raised(ticket_id, ticket.version, event)


def plain_phone(text: str) -> str:
    """Digits with an optional plus before them: the same number written in two ways is one.

    Raises InvalidRequest, which does not repeat what was sent.
    """
    plain = _PUNCTUATION.sub("", text)
    if not _PHONE.fullmatch(plain):
        raise InvalidRequest("A phone number has 7 to 15 digits, with a + before them at most.", "/phone")
    return plain


def hash_of_phone(plain: str, key: bytes) -> str:
    """HMAC-SHA256 in hex, 64 characters; found again by whoever has the key."""
    return hmac.digest(key, plain.encode(), "sha256").hex()


def mask_of_phone(plain: str) -> str:
    """The last digits, the others starred: `*******5678`."""
    return "*" * (len(plain) - SHOWN_DIGITS) + plain[-SHOWN_DIGITS:]
