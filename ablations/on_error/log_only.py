"""on_error=log-only (S3.18): the failure is logged and the message acked, at most once on purpose.

Predicted: every message whose handler fails is lost, without a dead letter; only the log knows.
"""

import logging
from collections.abc import Sequence

from core.inbox.worker import Failed, Worker, ids_of
from core.messaging.ports import Delivery

log = logging.getLogger(__name__)


class LogOnly(Worker):
    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        log.error("handler failed", extra={"ids": ids_of([failed.delivery]), "error": str(failed.error)})
        self.ack([failed.delivery])
        return failed.held
