"""Tests wait on conditions, never on time."""

from collections.abc import Callable
from time import monotonic, sleep
from traceback import extract_stack
from typing import TypeVar

T = TypeVar("T")


def until(read: Callable[[], T], timeout_s: float = 60.0) -> T:
    """What `read` returns, as soon as that is true; after `timeout_s` it fails with the line that waited."""
    give_up_at = monotonic() + timeout_s
    while not (found := read()):
        assert monotonic() < give_up_at, f"{found!r} for {timeout_s:g} s: {extract_stack(limit=2)[0].line}"
        sleep(0.01)
    return found
