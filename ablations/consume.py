"""The consume strategies by name, and one worker class for any choice of the seams ack, inbox, inbox.key, on_error.

Each seam's value is a `Worker` which overrides one method, so a choice of several is a class with several parents.
"""

from typing import NamedTuple

from ablations.ack import ACK
from ablations.inbox import INBOX, INBOX_KEY
from ablations.on_error import ON_ERROR
from core.inbox.worker import Worker


class Consume(NamedTuple):
    """Values of the consume side's seams; the defaults are the correct ones."""

    ack: str = "atomic"
    inbox: str = "atomic"
    inbox_key: str = "group_event"
    on_error: str = "retry_dlq"


CONSUME_STRATEGIES = {
    "none": Consume(inbox="off"),
    "ack-first": Consume(ack="before", inbox="off"),
    "check-then-act": Consume(inbox="check_then_act"),
    "unique-constraint": Consume(inbox="record_first"),
    "lock": Consume(inbox="lock"),
    "two-stage": Consume(inbox="two_stage"),
    "inbox": Consume(),
}


def worker_class(chosen: Consume = CONSUME_STRATEGIES["inbox"]) -> type[Worker]:
    """What to build instead of `Worker`, with the same arguments. Raises ValueError for an unknown value."""
    seams = {"ack": ACK, "inbox": INBOX, "inbox_key": INBOX_KEY, "on_error": ON_ERROR}
    parents: list[type[Worker]] = []
    for seam, value in chosen._asdict().items():
        if value not in seams[seam]:
            name, allowed = seam.replace("inbox_key", "inbox.key"), ", ".join(seams[seam])
            raise ValueError(f"{name}={value} is unknown; allowed: {allowed}")
        parent = seams[seam][value]
        if parent is not Worker and parent not in parents:
            parents.append(parent)
    # A parent that another one derives from comes with it; naming it before that one has no linear order.
    parents = [p for p in parents if not any(other is not p and issubclass(other, p) for other in parents)]
    if len(parents) <= 1:
        return parents[0] if parents else Worker
    return type("Worker" + "".join(parent.__name__ for parent in parents), tuple(parents), {})
