"""Append events and read an aggregate's events back. The table `event` is the event store; sending is the outbox's.

Every publish strategy writes here, in the business transaction; only who sends differs (`core.outbox.rows`).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any, NoReturn
from uuid import UUID

import uuid_utils
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.messaging.envelope import Envelope
from core.storage.tables import MessagingTables

COLUMNS = (
    "event_id, topic, event_type, aggregate_type, aggregate_id, sequence, "
    "schema_version, correlation_id, causation_id, occurred_at, payload"
)
ARRAYS = (
    "%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], "
    "%s::smallint[], %s::text[], %s::text[], %s::timestamptz[], %s::text[]"
)


def event_as_envelope(tables: MessagingTables) -> str:
    """Columns of an event `e`: the fields of an Envelope in its order, but for the headers, which no column keeps."""
    return (
        f"e.event_id::text, e.topic, e.event_type, '{tables.source_prefix}' || e.aggregate_type, e.aggregate_id, "
        "e.sequence, e.occurred_at, convert_to(e.payload, 'UTF8'), e.schema_version, e.correlation_id, e.causation_id"
    )


class VersionConflict(Exception):
    """Another transaction wrote this version of the aggregate first: read it again and decide again."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"nothing was written: that version of the aggregate exists already ({detail})")


def new_event_id() -> str:
    """UUIDv7 in text: roughly ordered by time, so the unique index grows at its end."""
    return str(uuid_utils.uuid7())


def append(target: Session | Connection, tables: MessagingTables, envelopes: Sequence[Envelope]) -> None:
    """Write the events, in order, in the caller's transaction, in one statement; send nothing.

    Raises VersionConflict when one (aggregate type, aggregate id, sequence) is taken.
    """
    if envelopes:
        sql = f"INSERT INTO {tables.event.fullname} ({COLUMNS}) SELECT * FROM unnest({ARRAYS})"
        execute(target, sql, columns_of(tables, envelopes))


def load(
    connection: Connection, tables: MessagingTables, aggregate_type: str, aggregate_id: str, after_sequence: int = 0
) -> Iterator[Envelope]:
    """The aggregate's events above `after_sequence`, in version order."""
    event = tables.event.c
    rows = connection.execute(
        select(tables.event)
        .where(event.aggregate_type == aggregate_type, event.aggregate_id == aggregate_id)
        .where(event.sequence > after_sequence)
        .order_by(event.sequence)
    )
    for row in rows:
        yield Envelope(
            id=str(row.event_id),
            topic=row.topic,
            type=row.event_type,
            source=tables.source_prefix + row.aggregate_type,
            key=row.aggregate_id,
            sequence=row.sequence,
            occurred_at=row.occurred_at,
            data=row.payload.encode(),
            schema_version=row.schema_version,
            correlation_id=row.correlation_id,
            causation_id=row.causation_id,
        )


def columns_of(tables: MessagingTables, envelopes: Sequence[Envelope]) -> list[list[Any]]:
    """One list a column of `COLUMNS`, for `unnest`. Raises ValueError for what the table could not give back."""
    for envelope in envelopes:
        if envelope.headers:
            raise ValueError(f"event {envelope.id} has transport headers, which no column keeps; put them in its data")
        if envelope.source != tables.source_prefix + envelope.aggregate_type:
            raise ValueError(
                f"event {envelope.id}: source {envelope.source!r} is not {tables.source_prefix}<aggregate type>; "
                "give messaging_tables() your service's source_prefix"
            )
    return [
        [UUID(e.id) for e in envelopes],
        [e.topic for e in envelopes],
        [e.type for e in envelopes],
        [e.aggregate_type for e in envelopes],
        [e.key for e in envelopes],
        [e.sequence for e in envelopes],
        [e.schema_version for e in envelopes],
        [e.correlation_id for e in envelopes],
        [e.causation_id for e in envelopes],
        [e.occurred_at.astimezone(UTC) for e in envelopes],
        [e.data.decode() for e in envelopes],
    ]


def execute(target: Session | Connection, sql: str, parameters: Sequence[Any]) -> None:
    """Run a statement that writes events on a Session's or Core connection; name the one error callers act on."""
    connection = target.connection() if isinstance(target, Session) else target
    try:
        connection.exec_driver_sql(sql, tuple(parameters))
    except IntegrityError as error:
        _raise_conflict(error)


def _raise_conflict(error: IntegrityError) -> NoReturn:
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is not None and diagnosis.constraint_name == "event_one_per_version":
        raise VersionConflict(diagnosis.message_detail or "no detail") from error
    raise error
