"""inbox=exception (S1.20): insert the id, and take the unique violation as the answer.

Insert and effect share the transaction, so no anomaly is predicted under any crash point: only the price, one
transaction and one error path an event (stage 3a; what the listing gets wrong is `record_first` and `upsert`).
"""

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from ablations.inbox.one_at_a_time import OneAtATime
from core.journey import Step
from core.messaging.envelope import Envelope


class ExceptionInbox(OneAtATime):
    def apply_one(self, envelope: Envelope) -> None:
        inbox = self.tables.inbox
        row = {"consumer_group": self.writing.claims.group, "event_id": envelope.id}
        with self.engine.connect() as connection:
            try:
                connection.execute(insert(inbox), row)
            except IntegrityError:
                return  # handled before
            self.probe.reach(Step.CLAIMED, [envelope.id], group=self.group)
            written = self.writing.write_effects(connection, [envelope])
            self.probe.reach(Step.EFFECTED, written.ids, group=self.group)
            connection.commit()
        self.writing.committed(written)
