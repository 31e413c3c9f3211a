"""The steps a message takes, from `POST /orders` to its last effect, in order, each with the module that takes it.

    requested  a client asked                                  benchmarks (the client's side)
    answered   the API answered it                             benchmarks
    committed  state + event + pending row are in the database core.commands
    leased     a relay owns the row's bucket and read the row  core.outbox.relay
    attempted  the batch is handed to the broker               core.outbox.relay
    confirmed  the broker's answer, one outcome a message      core.outbox.relay
    cleared    confirmed rows left the outbox                  core.outbox.relay
    delivered  a group was handed the message                  core.inbox.worker
    claimed    its id is in the inbox, uncommitted             core.inbox.worker
    effected   its effect is written, uncommitted              core.inbox.worker
    applied    inbox, effect and next events are committed     core.inbox.worker
    acked      the broker may forget the delivery              core.inbox.worker

The recorder (history) and the crash faults both hang on these points through `Probe`; nothing here knows either.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    REQUESTED = "requested"
    ANSWERED = "answered"
    COMMITTED = "committed"
    LEASED = "leased"
    ATTEMPTED = "attempted"
    CONFIRMED = "confirmed"
    CLEARED = "cleared"
    DELIVERED = "delivered"
    CLAIMED = "claimed"
    EFFECTED = "effected"
    APPLIED = "applied"
    ACKED = "acked"


class Probe(Protocol):
    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        """Called at `step` for one batch, before anything relies on the step having happened.

        `ids`: event ids (idempotency keys at requested and answered). `outcomes`: one word an id, where the
        step has one (confirmed, answered, applied). It may write, and it may never return: a crash point is
        a probe that kills the process.
        """


class NoProbe:
    """Watches nothing: for services that copy `core/` and for tests."""

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        return None
