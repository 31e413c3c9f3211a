"""Tests wait on conditions, never on time."""

from collections.abc import Callable
from time import monotonic, sleep
from traceback import extract_stack
from typing import TypeVar

from core.messaging.errors import BrokerUnavailable
from core.messaging.ports import Admin

T = TypeVar("T")


def until(read: Callable[[], T], timeout_s: float = 120.0) -> T:
    """What `read` returns, as soon as that is true; after `timeout_s` it fails with the line that waited."""
    give_up_at = monotonic() + timeout_s
    while not (found := read()):
        assert monotonic() < give_up_at, f"{found!r} for {timeout_s:g} s: {extract_stack(limit=2)[0].line}"
        sleep(0.01)
    return found


def delete_all(admin: Admin) -> None:
    """As soon as the broker takes it: one that was killed goes on loading what it keeps after it takes messages."""
    until(lambda: _is_deleted(admin))
    admin.close()


def _is_deleted(admin: Admin) -> bool:
    try:
        admin.delete()
    except BrokerUnavailable:
        return False
    return True
