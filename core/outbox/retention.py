"""Delete events that left the outbox long ago, one cleared batch a transaction. What is pending or parked stays.
When that is done, and by whom: `core.storage.cleaning`.

Also spared: whatever the caller names, such as the events of event-sourced aggregates that have no snapshot yet; their
events are their only state. Batches are bounded by what the relay cleared at once (`RelayOptions.batch_messages`).
"""

from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, Engine, delete, exists, func, not_, select, update

from core.storage.tables import MessagingTables

KEEP_FOR = timedelta(days=7)


def delete_old_events(
    engine: Engine,
    tables: MessagingTables,
    keep_for: timedelta = KEEP_FOR,
    spare: ColumnElement[bool] | None = None,
) -> int:
    """Delete events cleared more than `keep_for` ago by the database's clock; return how many.

    `spare`: a condition over `tables.event`; what meets it stays, and is looked at again next time.
    """
    return sum(delete_old_batches(engine, tables, keep_for, spare))


def delete_old_batches(
    engine: Engine, tables: MessagingTables, keep_for: timedelta, spare: ColumnElement[bool] | None = None
) -> Iterator[int]:
    """The same, one batch each time it is asked for the next, with how many of its events went."""
    after = 0
    while True:
        with engine.begin() as connection:
            batch = _next_batch(connection, tables, keep_for, after)
            if batch is None:
                return
            after, ids, attempts = batch
            gone = _delete_events(connection, tables, ids, spare)
            _shrink_batch(connection, tables, after, ids, attempts, gone)
        yield len(gone)


def _next_batch(
    connection: Connection, tables: MessagingTables, keep_for: timedelta, after: int
) -> tuple[int, list[int], list[int] | None] | None:
    cleared = tables.cleared.c
    row = connection.execute(
        select(cleared.id, cleared.event_ids, cleared.attempts)
        .where(cleared.id > after, cleared.cleared_at < func.clock_timestamp() - keep_for)
        .order_by(cleared.id)
        .limit(1)
        # Two clean-ups at once share the work.
        .with_for_update(skip_locked=True)
    ).one_or_none()
    return None if row is None else (row.id, row.event_ids, row.attempts)


def _delete_events(
    connection: Connection, tables: MessagingTables, ids: list[int], spare: ColumnElement[bool] | None
) -> set[int]:
    event, pending = tables.event.c, tables.pending.c
    statement = delete(tables.event).where(event.id.in_(ids), ~exists().where(pending.id == event.id))
    if spare is not None:
        statement = statement.where(not_(spare))
    return set(connection.execute(statement.returning(event.id)).scalars())


def _shrink_batch(
    connection: Connection,
    tables: MessagingTables,
    batch: int,
    ids: list[int],
    attempts: list[int] | None,
    gone: set[int],
) -> None:
    """Forget the ids whose events are gone; the batch itself with the last of them."""
    left = [place for place, id in enumerate(ids) if id not in gone]
    if not left:
        connection.execute(delete(tables.cleared).where(tables.cleared.c.id == batch))
    elif gone:
        values = {
            "event_ids": [ids[place] for place in left],
            "attempts": attempts and [attempts[place] for place in left],
        }
        connection.execute(update(tables.cleared).where(tables.cleared.c.id == batch).values(values))
