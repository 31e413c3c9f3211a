"""on_error=forever (S2.15): the error is rethrown, the message comes again every second, without a limit.

Predicted: a poison message stops its key for good; it and everything behind it is unseen when the drain is cut.
Nothing where each failure passes in the end.
"""

from collections.abc import Sequence

from core.inbox.worker import Failed, Worker
from core.messaging.ports import Delivery

AGAIN_AFTER_S = 1.0


class Forever(Worker):
    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        self.subscriber.retry(failed.delivery, AGAIN_AFTER_S, failed.held)
        return ()
