"""Publish from the command's own process, as both naive sinks do: one try, its failure logged and swallowed.

With a retry policy (S3.23) what the broker did not answer for is tried again, while the request waits; after the last
try the failure surfaces. That outlasts a short outage of the broker, and no crash of the process.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from random import Random

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from core.inbox.retries import RetryPolicy
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome, Status
from core.messaging.ports import Publisher
from core.storage.event_store import append
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""How long a request can wait for a broker. Shorter than a broker's restart, as it is in any service with users."""


class NotPublished(Exception):
    """Tried as often as the policy says: perhaps the broker has the events, perhaps it has not."""


class DirectPublisher:
    """A publisher shared by the threads of one process: requests wait for one another here."""

    def __init__(
        self,
        publisher: Publisher,
        probe: Probe | None,
        retry: RetryPolicy | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._publisher = publisher
        self._probe = probe or NoProbe()
        self._retry = retry
        self._wait = wait
        self._lock = threading.Lock()

    def committed(self, envelopes: Sequence[Envelope]) -> None:
        self._probe.reach(Step.COMMITTED, [envelope.id for envelope in envelopes])

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Raises NotPublished, but only with a retry policy."""
        with self._lock:
            left, tries = envelopes, 1
            outcomes = self._try(left)
            while self._retry and not self._retry.is_last(tries) and _is_worth_a_try(outcomes):
                self._wait(self._retry.delay_s(tries, Random()))
                left = [one for one, outcome in zip(left, outcomes, strict=True) if not outcome.is_confirmed]
                tries += 1
                outcomes = self._try(left)
        failed = [outcome for outcome in outcomes if not outcome.is_confirmed]
        if failed and self._retry:
            raise NotPublished(f"{len(failed)} events after {tries} tries: {failed[0].reason}")
        if failed:
            # The flaw itself: the request goes on as if the event were on its way.
            log.error("event publish failed", extra={"messages": len(failed), "reason": failed[0].reason})

    def _try(self, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        ids = [envelope.id for envelope in envelopes]
        self._probe.reach(Step.ATTEMPTED, ids)
        outcomes = self._publisher.publish(envelopes, TIMEOUT_S)
        self._probe.reach(Step.CONFIRMED, ids, outcomes=[outcome.status for outcome in outcomes])
        return outcomes

    def close(self) -> None:
        self._publisher.close()


class DirectSink:
    """Writes the event rows; when they are sent is said by who inherits."""

    def __init__(
        self,
        tables: MessagingTables,
        publisher: Publisher,
        probe: Probe | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._tables = tables
        self._direct = DirectPublisher(publisher, probe, retry)

    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        append(target, self._tables, envelopes)

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        if envelopes:
            self._direct.committed(envelopes)

    def close(self) -> None:
        self._direct.close()


def _is_worth_a_try(outcomes: Sequence[Outcome]) -> bool:
    """What the broker refused it would refuse again."""
    statuses = {outcome.status for outcome in outcomes}
    return Status.UNKNOWN in statuses and Status.REFUSED not in statuses
