"""Calls to the outside world (gateway, mail, platform), which no transaction can take back: reserve, call, settle, ack.

    reserve  the group's handler inserts a RESERVED row with `reserve`, inside the inbox transaction; commit
    call     `OutsideCaller.call_for` takes the rows of the batch and calls, with the row's idempotency key
    settle   the row becomes SENT; commit
    ack      the worker acks

A crash between reserve and call leaves a RESERVED row: the sweeper calls again once it is older than a limit. A crash
between call and settle makes the sweeper repeat a call that was made: only the key, honoured on the other side, keeps
that from being a second mail. Where it is not honoured, duplicates remain, and no code on this side can help it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from core.inbox.retries import is_transient
from core.messaging.envelope import Envelope

log = logging.getLogger(__name__)

RESERVED, SENT = "RESERVED", "SENT"

Call = Callable[[Mapping[str, Any]], None]
"""Makes one call for one row, with `row["idempotency_key"]`. Any error: it may or may not have been made."""


def outside_call_table(metadata: MetaData, name: str, *own_columns: Column[Any], schema: str | None = None) -> Table:
    """A table of outside calls; `own_columns` hold what the call needs."""
    return Table(
        name,
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        # One call a key: reserving it again is a repeat. E.g. order id and mail type.
        Column("idempotency_key", String(200), nullable=False, unique=True),
        Column("event_id", String(36), nullable=False, index=True),
        Column("status", String(10), nullable=False, server_default=text("'RESERVED'")),
        # Whose turn it is: a caller moves it on before it calls, so that two do not call at once.
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("calls", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
        Column("sent_at", DateTime(timezone=True)),
        *own_columns,
        schema=schema,
    )


def reserve(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """In the inbox transaction: the idempotency keys that were not reserved before. Rows need event_id too."""
    if not rows:
        return set()
    ordered = sorted(rows, key=lambda row: str(row["idempotency_key"]))
    statement = insert(table).values(ordered).on_conflict_do_nothing().returning(table.c.idempotency_key)
    return set(connection.execute(statement).scalars())


class OutsideCaller:
    """Calls for reserved rows and settles them; one error leaves its row reserved and the others go on."""

    def __init__(self, engine: Engine, table: Table, call: Call, *, retry_after_s: float = 30.0) -> None:
        """`retry_after_s`: how long a call may take at most; after that the sweeper believes its caller dead."""
        self._engine = engine
        self._table = table
        self._call = call
        self._retry_after_s = retry_after_s

    def call_for(self, envelopes: Sequence[Envelope]) -> None:
        """A worker's `call_outside`. Never raises for a call or a lost database: what is not SENT is swept."""
        ids = [envelope.id for envelope in envelopes]
        self._guarded(lambda: self._run(self._take(ids, len(ids))))

    def sweep(self, at_most_rows: int = 100) -> int:
        """Call again for rows still reserved after their limit; how many were taken. Call it now and then."""
        taken = self._take(None, at_most_rows)
        self._run(taken)
        return len(taken)

    def _take(self, event_ids: Sequence[str] | None, limit: int) -> Sequence[Mapping[str, Any]]:
        """Reserved rows that are due, now this caller's for `retry_after_s`."""
        table = self._table.c
        due = select(table.id).where(table.status == RESERVED, table.due_at <= func.clock_timestamp())
        if event_ids is not None:
            due = due.where(table.event_id.in_(event_ids))
        due = due.order_by(table.id).limit(limit).with_for_update(skip_locked=True)
        limit_s = text("clock_timestamp() + make_interval(secs => :seconds)").bindparams(seconds=self._retry_after_s)
        statement = (
            update(self._table)
            .where(table.id.in_(due))
            .values(due_at=limit_s, calls=table.calls + 1)
            .returning(*self._table.c)
        )
        with self._engine.begin() as connection:
            rows = connection.execute(statement).mappings().all()
        return sorted((dict(row) for row in rows), key=lambda row: int(row["id"]))

    def _run(self, rows: Sequence[Mapping[str, Any]]) -> None:
        sent: list[int] = []
        failed: list[dict[str, Any]] = []
        for row in rows:
            try:
                self._call(row)
            except Exception as error:
                log.warning("outside call failed", extra={"key": row["idempotency_key"]}, exc_info=True)
                failed.append({"row_id": row["id"], "error": f"{type(error).__name__}: {error}"[:1_000]})
            else:
                sent.append(row["id"])
        if not rows:
            return
        table = self._table.c
        with self._engine.begin() as connection:
            if sent:
                now = func.clock_timestamp()
                connection.execute(
                    update(self._table).where(table.id.in_(sent)).values(status=SENT, sent_at=now, last_error=None)
                )
            if failed:
                statement = update(self._table).where(table.id == bindparam("row_id"))
                connection.execute(statement.values(last_error=bindparam("error")), failed)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("database failed after an outside call, the sweeper goes on", extra={"error": str(error)})
