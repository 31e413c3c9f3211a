"""ack=before (S0.33): the broker may forget the messages before anything was done with them: at most once.

Predicted: crash at `acked` (P8) loses the whole batch; a message that fails is lost at once, without a dead letter.
Nothing under calm. The inbox cannot help: what it never saw does not come again.
"""

import logging
from collections.abc import Sequence

from core.inbox.worker import Failed, Worker, ids_of
from core.journey import Step
from core.messaging.ports import Delivery

log = logging.getLogger(__name__)


class AckBefore(Worker):
    def handle(self, deliveries: Sequence[Delivery]) -> None:
        messages = self.take_in(deliveries)
        if messages:
            self.subscriber.ack(messages)
            self.probe.reach(Step.ACKED, ids_of(messages), group=self.group)
        while messages:
            applied = self.apply(messages)
            if self.call_outside:
                self.call_outside([message.envelope for message in applied.settled if message.envelope])
            messages = [message for failed in applied.failed for message in self.on_failure(failed)]

    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        # The broker forgot it already: there is nothing left to retry or to dead-letter.
        log.warning("message failed after its ack", extra={"group": self.group, "error": str(failed.error)})
        return failed.held
