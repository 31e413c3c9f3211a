"""inbox=check_then_act (S0.28): look for the id; if it is not there, act, then record it, in three transactions.

Predicted: crash at `effected` (P5) gives that event two effects; two workers with the same event both find nothing
and both act. Nothing under calm with one worker a key.
"""

from ablations.inbox.one_at_a_time import OneAtATime
from core.messaging.envelope import Envelope


class CheckThenAct(OneAtATime):
    def apply_one(self, envelope: Envelope) -> None:
        if self.is_recorded(envelope):
            return
        written = self.effect(envelope)
        self.record(envelope, written)
        self.writing.committed(written)
