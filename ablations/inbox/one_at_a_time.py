"""What the naive consumers have in common: one event after the other, each with transactions of its own.

Also a `Worker`, so the loop, the back-off and the dead letters are the core's; only how an event becomes known as
handled differs, and that is `apply_one` of each neighbour here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sqlalchemy import text

from core.inbox.retries import is_transient
from core.inbox.worker import Applied, Failed, Worker
from core.inbox.writing import Written
from core.journey import Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery


class OneAtATime(Worker, ABC):
    def apply_once(self, messages: Sequence[Delivery]) -> Applied:
        settled: list[Delivery] = []
        failed: dict[str, Failed] = {}
        for message in messages:
            if message.envelope is None:
                continue
            if message.key in failed:
                failed[message.key].held.append(message)
                continue
            try:
                self.apply_one(message.envelope)
            except Exception as error:
                if is_transient(error):
                    raise
                failed[message.key] = Failed(message, error, [])
            else:
                settled.append(message)
        return Applied(settled, list(failed.values()))

    @abstractmethod
    def apply_one(self, envelope: Envelope) -> None:
        """Apply one event, in transactions of its own. What it raises is counted as the event's failure."""

    def is_recorded(self, envelope: Envelope) -> bool:
        """The check, in a transaction of its own."""
        sql = f"SELECT 1 FROM {self.tables.inbox.fullname} WHERE consumer_group = :group AND event_id = :id"
        with self.engine.connect() as connection:
            given = {"group": self.writing.claims.group, "id": envelope.id}
            return connection.execute(text(sql), given).first() is not None

    def record(self, envelope: Envelope, written: Written | None = None) -> bool:
        """The id, in a transaction of its own; False if it was there. `written`: what to note beside it."""
        with self.engine.begin() as connection:
            is_new = bool(self.writing.claims.claim(connection, [envelope]))
            if written:
                self.writing.claims.ignore(connection, written.ignored)
        if is_new:
            self.probe.reach(Step.CLAIMED, [envelope.id], group=self.group)
        return is_new

    def effect(self, envelope: Envelope) -> Written:
        """The effect, in a transaction of its own: at the crash point `effected` it is committed."""
        with self.engine.begin() as connection:
            written = self.writing.write_effects(connection, [envelope])
        self.probe.reach(Step.EFFECTED, [envelope.id], group=self.group)
        return written
