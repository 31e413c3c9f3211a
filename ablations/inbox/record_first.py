"""inbox=record_first, the strategy `unique-constraint` (S0.29, S1.21): insert first, act second, a violation is a skip.

Predicted: crash at `claimed` (P6) loses that event: its row says handled, its effect was never done, and the
redelivery is skipped. No duplicate under any crash point; nothing under calm.
"""

from ablations.inbox.one_at_a_time import OneAtATime
from core.messaging.envelope import Envelope


class RecordFirst(OneAtATime):
    def apply_one(self, envelope: Envelope) -> None:
        if not self.record(envelope):
            return
        self.writing.committed(self.effect(envelope))
