"""Publish from the command's own process, as both naive sinks do: one try, its failure logged and swallowed."""

import logging
import threading
from collections.abc import Sequence

from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Publisher

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""How long a request can wait for a broker. Shorter than a broker's restart, as it is in any service with users."""


class DirectPublisher:
    """A publisher shared by the threads of one process: requests wait for one another here."""

    def __init__(self, publisher: Publisher, probe: Probe | None) -> None:
        self._publisher = publisher
        self._probe = probe or NoProbe()
        self._lock = threading.Lock()

    def committed(self, envelopes: Sequence[Envelope]) -> None:
        self._probe.reach(Step.COMMITTED, [envelope.id for envelope in envelopes])

    def send(self, envelopes: Sequence[Envelope]) -> None:
        ids = [envelope.id for envelope in envelopes]
        with self._lock:
            self._probe.reach(Step.ATTEMPTED, ids)
            outcomes = self._publisher.publish(envelopes, TIMEOUT_S)
            self._probe.reach(Step.CONFIRMED, ids, outcomes=[outcome.status for outcome in outcomes])
        failed = [outcome for outcome in outcomes if not outcome.is_confirmed]
        if failed:
            # The flaw itself: the request goes on as if the event were on its way.
            log.error("event publish failed", extra={"messages": len(failed), "reason": failed[0].reason})

    def close(self) -> None:
        self._publisher.close()
