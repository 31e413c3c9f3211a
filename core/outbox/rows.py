"""Write events so that they are sent if, and only if, the business transaction commits.

The seam `publish`: commands write through an `EventSink`. The default puts rows into the outbox and rings the relay;
what sends straight from the command's process lives in `ablations/publish/`. Who moves the rows: `relay`.
"""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.outbox.doorbell import Doorbell
from core.storage.event_store import ARRAYS, COLUMNS, columns_of, execute
from core.storage.tables import BUCKETS, MessagingTables


class EventSink(Protocol):
    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        """Inside the business transaction, after the aggregate's version was read; order within a key is kept.

        Raises VersionConflict; the caller's transaction must then roll back.
        """

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        """The transaction that wrote these has committed. Never raises: the business change stands already."""

    def close(self) -> None: ...


class OutboxSink:
    """The default: rows with the change, a ring after the commit. `doorbell=None`: the relay's poll finds them."""

    def __init__(self, tables: MessagingTables, doorbell: Doorbell | None = None, probe: Probe | None = None) -> None:
        self._tables = tables
        self._doorbell = doorbell
        self._probe = probe or NoProbe()

    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        add_events(target, self._tables, envelopes)

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        if envelopes:
            self._probe.reach(Step.COMMITTED, [envelope.id for envelope in envelopes])
            if self._doorbell is not None:
                self._doorbell.ring()

    def close(self) -> None:
        if self._doorbell is not None:
            self._doorbell.close()


def add_events(target: Session | Connection, tables: MessagingTables, envelopes: Sequence[Envelope]) -> None:
    """Write event and pending rows, in order, in the caller's transaction, in one statement.

    The ids are drawn here, after the caller read the aggregate's version: within an aggregate a later version always
    has the higher id, which is all that the relay's order rests on. And they are drawn after the transaction has its
    own id, so that whoever still may commit a low id is known to be running (`relay`). Raises VersionConflict.
    """
    if not envelopes:
        return
    sequence = f"pg_get_serial_sequence('{tables.event.fullname}', 'id')"
    sql = f"""
        WITH running AS MATERIALIZED (SELECT pg_current_xact_id()),
        input AS MATERIALIZED (
            SELECT nextval({sequence}) AS id, given.*
            FROM running, unnest({ARRAYS}, %s::smallint[]) AS given ({COLUMNS}, bucket)
        ), written AS (
            INSERT INTO {tables.event.fullname} (id, {COLUMNS}) SELECT id, {COLUMNS} FROM input
        )
        INSERT INTO {tables.pending.fullname} (id, bucket, key) SELECT id, bucket, aggregate_id FROM input
    """
    buckets = [lane_of(envelope.key, BUCKETS) for envelope in envelopes]
    execute(target, sql, [*columns_of(tables, envelopes), buckets])
