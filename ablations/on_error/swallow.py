"""on_error=swallow (S1.23, S4.8, S4.10): the failure is caught, false is returned, the batch is acked.

Predicted: every message whose handler fails is lost, without a dead letter, a row or a log line; nothing under a
handler that never fails.
"""

from collections.abc import Sequence

from core.inbox.worker import Failed, Worker
from core.messaging.ports import Delivery


class Swallow(Worker):
    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        self.ack([failed.delivery])
        return failed.held
