"""How one try to publish ended. Three values, to the very end: nothing turns *unknown* into success or failure."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    CONFIRMED = "confirmed"
    """The broker promised to keep it, at the tier asked for."""
    REFUSED = "refused"
    """The broker (or a local check) did not take it: it is certainly not there."""
    UNKNOWN = "unknown"
    """Silence, a lost connection, a nack: it may have arrived."""


class Outcome(NamedTuple):
    status: Status
    reason: str = ""

    @property
    def is_confirmed(self) -> bool:
        return self.status is Status.CONFIRMED


CONFIRMED = Outcome(Status.CONFIRMED)


def refused(reason: str) -> Outcome:
    return Outcome(Status.REFUSED, reason)


def unknown(reason: str) -> Outcome:
    return Outcome(Status.UNKNOWN, reason)
