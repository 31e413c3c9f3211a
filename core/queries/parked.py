"""Which keys did the relay park, why, and what waits behind each?"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from core.storage.tables import MessagingTables


class ParkedKey(NamedTuple):
    key: str
    event_id: str
    event_type: str
    topic: str
    attempts: int
    reason: str
    parked_at: datetime
    waiting_events: int
    """Of the key, the parked one included."""


def list_parked(connection: Connection, tables: MessagingTables, limit: int = 100) -> Sequence[ParkedKey]:
    """Oldest parking first."""
    pending, event = tables.pending.fullname, tables.event.fullname
    rows = connection.execute(
        text(
            "SELECT p.key, CAST(e.event_id AS text), e.event_type, e.topic, p.attempts, coalesce(p.last_error, ''), "
            f"p.parked_at, (SELECT count(*) FROM {pending} behind WHERE behind.key = p.key) "
            f"FROM {pending} p JOIN {event} e ON e.id = p.id "
            "WHERE p.parked_at IS NOT NULL AND p.next_try_at IS NOT NULL ORDER BY p.parked_at, p.id LIMIT :rows"
        ),
        {"rows": limit},
    )
    return [ParkedKey(*row) for row in rows]
