"""inbox=upsert (S1.21): the id is saved, but a save that turns into an update never raises.

Predicted: duplicated_effects for every redelivery, also without any crash, although each event has its row; crash
at `applied` (P7) repeats a batch. Insert and effect are not one transaction either: crash at `claimed` is harmless
here only because nothing ever believes the row.
"""

from sqlalchemy import text

from ablations.inbox.one_at_a_time import OneAtATime
from core.journey import Step
from core.messaging.envelope import Envelope


class UpsertInbox(OneAtATime):
    def apply_one(self, envelope: Envelope) -> None:
        save = text(
            f"INSERT INTO {self.tables.inbox.fullname} (consumer_group, event_id) VALUES (:group, :id) "
            "ON CONFLICT (consumer_group, event_id) DO UPDATE SET handled_at = clock_timestamp()"
        )
        with self.engine.begin() as connection:
            connection.execute(save, {"group": self.writing.claims.group, "id": envelope.id})
        self.probe.reach(Step.CLAIMED, [envelope.id], group=self.group)
        self.writing.committed(self.effect(envelope))
