"""inbox.key=event (S0.40): the event's id alone is the key, so all groups of the application share one inbox.

Predicted: the first group to handle an event silences the others: every other group loses its effect, without any
crash. With one group there is nothing to see.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from core.inbox.claims import Claims
from core.inbox.worker import Worker
from core.messaging.envelope import Envelope
from core.storage.tables import MessagingTables

SHARED = "all groups"


class SharedClaims(Claims):
    """One row an event decides for all groups. The group's own row is for the judge, it decides nothing."""

    def __init__(self, tables: MessagingTables, group: str) -> None:
        super().__init__(tables, group)
        self._shared = Claims(tables, SHARED)

    def claim(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Envelope]:
        fresh = self._shared.claim(connection, envelopes)
        if fresh:
            super().claim(connection, fresh)
        return fresh


class EventKey(Worker):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.writing.claims = SharedClaims(self.tables, self.group)
