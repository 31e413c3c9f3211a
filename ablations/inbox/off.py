"""inbox=off (S0.32, S0.33, S1.18): nobody asks whether an event was handled before.

Predicted: duplicated_effects = duplicated_on_wire, so one for each redelivery; crash at `applied` (P7) repeats a
batch. None while nothing is delivered twice. The inbox rows are still written, after the effects: nobody here reads
them, but the judge must be able to tell an ignored event from a lost one.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from core.inbox.worker import Worker, envelopes_of
from core.inbox.writing import Written
from core.journey import Step
from core.messaging.ports import Delivery


class InboxOff(Worker):
    def write(self, connection: Connection, messages: Sequence[Delivery]) -> Written:
        envelopes = envelopes_of(messages)
        if not envelopes:
            return Written()
        written = self.writing.write_effects(connection, envelopes)
        self.writing.claims.claim(connection, envelopes)
        self.writing.claims.ignore(connection, written.ignored)
        self.probe.reach(Step.EFFECTED, written.ids, group=self.group)
        return written
