"""The strategy `lock`: an advisory lock on the event's id around `check_then_act`.

The lock keeps two workers with the same event apart. Predicted: crash at `effected` (P5) still gives two effects,
since the lock goes with the process and the record was never written. Costs a connection held for each event.
"""

from sqlalchemy import text

from ablations.inbox.check_then_act import CheckThenAct
from core.messaging.envelope import Envelope


class Locked(CheckThenAct):
    def apply_one(self, envelope: Envelope) -> None:
        with self.engine.connect() as holder:
            holder.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"{self.writing.claims.group} {envelope.id}"},
            )
            super().apply_one(envelope)
