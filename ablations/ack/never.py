"""ack=never (S4.7): auto-commit is off and the handler is given no ack, so nothing is ever acknowledged.

Predicted: nothing is lost, but each restart or takeover delivers everything again (duplicated_on_wire); with the
inbox no effect is doubled, without it every one is. The broker's backlog never shrinks; where it bounds what a
subscriber may hold unacked (RabbitMQ), a reader stops for good at its prefetch.
"""

from collections.abc import Sequence

from core.inbox.worker import Worker
from core.messaging.ports import Delivery


class AckNever(Worker):
    def ack(self, settled: Sequence[Delivery]) -> None:
        return None
