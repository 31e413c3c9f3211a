"""Apply events again for one group alone, from the event table: what it never applied, or all of it from nothing.

The group's handler runs here, in the transaction of the inbox rows, beside its workers if they run: whoever claims an
event first applies it, the other passes it over. No other group sees anything, nothing goes to the broker.
Reading again through the broker is `Admin.replay`; which of the two: `docs/decisions/replay-from-the-event-table.md`.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Table, bindparam, delete, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from core.inbox.dead_letters import GroupSetup
from core.inbox.retries import is_transient
from core.inbox.writing import GroupWriting
from core.journey import Probe
from core.messaging.envelope import Envelope
from core.storage.event_store import event_as_envelope
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)

BATCH_EVENTS = 500
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Failed(NamedTuple):
    event_id: str
    reason: str


class Replay(NamedTuple):
    """What became of the events that were asked for."""

    applied: int
    """Handled now; those that the handler ignored, with its reason, among them."""
    passed_over: int
    """Handled before, by this group."""
    failed: Sequence[Failed]
    """The handler could not; later events of the same key were left, they would overtake it."""


def forget(connection: Connection, tables: MessagingTables, group: str, own_tables: Sequence[Table]) -> None:
    """In the caller's transaction: as if the group had never received anything.

    `own_tables` hold nothing but this group's effects. They are locked first, so a worker's transaction is either
    whole before this one, and forgotten, or whole after it, and kept.
    """
    for table in own_tables:
        connection.execute(text(f"LOCK TABLE {table.fullname} IN SHARE ROW EXCLUSIVE MODE"))
    for journal in (tables.inbox, tables.effect):
        connection.execute(delete(journal).where(journal.c.consumer_group == group))
    for table in own_tables:
        connection.execute(delete(table))


def replay(
    engine: Engine,
    tables: MessagingTables,
    group: str,
    setup: GroupSetup,
    takes: Collection[str],
    *,
    event_ids: Sequence[str] | None = None,
    since: datetime | None = None,
    probe: Probe | None = None,
    progress: Callable[[int], None] | None = None,
) -> Replay:
    """Apply, in the outbox's order, the events of the types the group takes that it has not handled.

    `event_ids`: these alone; `since`: those that occurred since then; neither: all there are. What still waits in the
    outbox is left to its relay. Raises what `is_transient`: then it may be called again.
    """
    writing = GroupWriting(tables, group, setup.handler, probe=probe, sink=setup.sink, decode=setup.decode)
    applied = passed_over = 0
    failed: list[Failed] = []
    stuck: set[tuple[str, str]] = set()
    for batch in _batches(engine, tables, sorted(takes), event_ids, since):
        free = [event for event in batch if (event.topic, event.key) not in stuck]
        done, bad = _apply(engine, writing, free, stuck)
        applied += done
        passed_over += len(free) - done - bad.left
        failed += bad.failed
        if progress:
            progress(len(batch))
    return Replay(applied, passed_over, failed)


class _Bad(NamedTuple):
    failed: Sequence[Failed] = ()
    left: int = 0
    """Failed ones and those behind them."""


def _apply(
    engine: Engine, writing: GroupWriting, batch: Sequence[Envelope], stuck: set[tuple[str, str]]
) -> tuple[int, _Bad]:
    """All in one transaction; if the handler refuses, one by one, so that only the bad one is left."""
    if not batch:
        return 0, _Bad()
    try:
        return _write(engine, writing, batch), _Bad()
    except Exception as error:
        if is_transient(error):
            raise
    done, left = 0, 0
    failed: list[Failed] = []
    for event in batch:
        if (event.topic, event.key) in stuck:
            left += 1
            continue
        try:
            done += _write(engine, writing, [event])
        except Exception as error:
            if is_transient(error):
                raise
            stuck.add((event.topic, event.key))
            left += 1
            failed.append(Failed(event.id, f"{type(error).__name__}: {error}"[:1_000]))
            log.warning(
                "replayed event failed",
                extra={"group": writing.group, "event_id": event.id, "correlation_id": event.correlation_id},
            )
    return done, _Bad(failed, left)


def _write(engine: Engine, writing: GroupWriting, batch: Sequence[Envelope]) -> int:
    with engine.begin() as connection:
        written = writing.write(connection, batch)
    writing.committed(written)
    return len(written.ids)


def _batches(
    engine: Engine,
    tables: MessagingTables,
    types: Sequence[str],
    event_ids: Sequence[str] | None,
    since: datetime | None,
) -> Iterator[list[Envelope]]:
    """By ascending id, each batch read in a transaction of its own: a long replay holds no snapshot."""
    conditions = ["e.id > :after", "e.event_type = ANY(:types)", "e.occurred_at >= :since"]
    conditions += [f"NOT EXISTS (SELECT FROM {tables.pending.fullname} p WHERE p.id = e.id)"]
    given: dict[str, object] = {"types": types, "since": since or BEGINNING, "rows": BATCH_EVENTS}
    if event_ids is not None:
        conditions.append("e.event_id = ANY(:ids)")
        given["ids"] = list(event_ids)
    statement = text(
        f"SELECT e.id, {event_as_envelope(tables)} FROM {tables.event.fullname} e "
        f"WHERE {' AND '.join(conditions)} ORDER BY e.id LIMIT :rows"
    )
    if event_ids is not None:
        statement = statement.bindparams(bindparam("ids", type_=ARRAY(UUID(as_uuid=False))))
    after = 0
    while True:
        with engine.connect() as connection:
            rows = connection.execute(statement, {**given, "after": after}).all()
        if not rows:
            return
        after = rows[-1][0]
        yield [Envelope(*row[1:]) for row in rows]
