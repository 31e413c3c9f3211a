"""inbox=two_stage (S1.22, S1.24): a map in memory first, the database second; then effect, record, map.

Predicted: as `check_then_act`, crash at `effected` (P5) gives two effects, and so do two workers with one event.
The map is per process and never shrinks: memory grows by about 150 bytes an event, for ever. `found` tells where
each answer came from.
"""

from collections import Counter
from typing import Any

from ablations.inbox.one_at_a_time import OneAtATime
from core.messaging.envelope import Envelope


class TwoStage(OneAtATime):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seen: set[str] = set()
        self.found: Counter[str] = Counter()

    def apply_one(self, envelope: Envelope) -> None:
        if envelope.id in self.seen:
            self.found["memory"] += 1
            return
        if self.is_recorded(envelope):
            self.found["database"] += 1
            return
        self.found["new"] += 1
        written = self.effect(envelope)
        self.record(envelope, written)
        self.seen.add(envelope.id)
        self.writing.committed(written)
