"""on_error=requeue (S4.8): what failed goes back and comes again at once, for ever, while its key goes on.

Predicted: out_of_order, since the later messages of its key that came with it are applied first; a poison message
turns in a circle at full speed and never becomes a dead letter (undelivered or lost at the drain's end).
"""

from collections.abc import Sequence

from core.inbox.worker import Failed, Worker
from core.messaging.ports import Delivery


class Requeue(Worker):
    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        self.subscriber.retry(failed.delivery, 0.0)
        return failed.held
