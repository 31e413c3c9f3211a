"""Calls to the outside world (gateway, mail, platform), which no transaction can take back: reserve, call, settle, ack.

    reserve  the group's handler inserts a RESERVED row with `reserve`, inside the inbox transaction; commit
    call     `OutsideCaller.call_for` takes the rows of the batch and calls, with the row's idempotency key
    settle   the row becomes SENT, and what follows from the answer is written, next events too; commit
    ack      the worker acks

A crash between reserve and call leaves a RESERVED row: the sweeper calls again once it is older than a limit. A crash
between call and settle makes the sweeper repeat a call that was made: only the key, honoured on the other side, keeps
that from being a second mail. Where it is not honoured, duplicates remain, and no code on this side can help it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from random import Random
from time import monotonic
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from core.inbox.handlers import EventSink, NoSink
from core.inbox.retries import RetryPolicy, is_transient
from core.messaging.envelope import Envelope
from core.storage.outside_calls import RESERVED, SENT

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

Call = Callable[[Row], Any]
"""Makes one call for one row, with `row["idempotency_key"]`; returns what was answered. Any error: it may or may not
have been made."""

CallAll = Callable[[Sequence[Row]], Sequence[Any]]
"""Makes the calls for many rows; for each, in order, what was answered, or the exception that says why none was."""

Settle = Callable[[Connection, Sequence[tuple[Row, Any]]], Sequence[Envelope]]
"""In the transaction in which the rows become SENT: writes what follows from (row, answer), returns the next events.
A row may be settled twice, by a slow caller and by the sweeper: what follows must bear that."""

CALL_AGAIN = RetryPolicy(tries=None)
"""Calls that failed are never given up: their rows show the last error."""


def each_alone(call: Call, threads: int = 1) -> CallAll:
    """One call a row, `threads` at a time; an error is the row's own."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="outside-call") if threads > 1 else None

    def call_all(rows: Sequence[Row]) -> list[Any]:
        each = partial(_answer_of, call)
        return list(pool.map(each, rows) if pool else map(each, rows))

    return call_all


def reserve(connection: Connection, table: Table, rows: Sequence[Row]) -> set[str]:
    """In the inbox transaction: the idempotency keys that were not reserved before. Rows need event_id too."""
    if not rows:
        return set()
    ordered = sorted(rows, key=lambda row: str(row["idempotency_key"]))
    statement = insert(table).on_conflict_do_nothing().returning(table.c.idempotency_key)
    return set(connection.execute(statement, ordered).scalars())


class OutsideCaller:
    """Calls for reserved rows and settles them; one error leaves its row reserved and the others go on."""

    def __init__(
        self,
        engine: Engine,
        table: Table,
        call_all: CallAll,
        *,
        at_once: int = 1,
        settle: Settle | None = None,
        sink: EventSink | None = None,
        retry_after_s: float = 30.0,
        retry: RetryPolicy = CALL_AGAIN,
    ) -> None:
        """`at_once`: rows that `call_all` is handed at most. `sink`: where the events of `settle` go. `retry_after_s`:
        after that the sweeper believes a caller dead; one `call_all` must end within half of it. `retry`: when a call
        that failed is due again."""
        self._engine = engine
        self._table = table
        self._call_all = call_all
        self._at_once = at_once
        self._follow = settle
        self._sink = sink or NoSink()
        self._retry_after_s = retry_after_s
        self._retry = retry
        self._random = Random()

    def call_for(self, envelopes: Sequence[Envelope]) -> None:
        """A worker's `call_outside`. Never raises for a call or a lost database: what is not SENT is swept."""
        ids = [envelope.id for envelope in envelopes]
        self._guarded(lambda: self._run(self._take(ids, None)))

    def sweep(self, at_most_rows: int = 100) -> int:
        """Call again for rows still reserved after their limit; how many were taken. Call it now and then."""
        taken = self._take(None, at_most_rows)
        self._run(taken)
        return len(taken)

    def _take(self, event_ids: Sequence[str] | None, limit: int | None) -> Sequence[Row]:
        """Reserved rows that are due, now this caller's for `retry_after_s`."""
        table = self._table.c
        due = select(table.id).where(table.status == RESERVED, table.due_at <= func.clock_timestamp())
        if event_ids is not None:
            due = due.where(table.event_id.in_(event_ids))
        due = due.order_by(table.id).limit(limit).with_for_update(skip_locked=True)
        statement = (
            update(self._table)
            .where(table.id.in_(due))
            .values(due_at=_IN_SECONDS, calls=table.calls + 1)
            .returning(*self._table.c)
        )
        with self._alone() as connection:
            rows = connection.execute(statement, {"seconds": self._retry_after_s}).mappings().all()
        return sorted((dict(row) for row in rows), key=lambda row: int(row["id"]))

    def _run(self, rows: Sequence[Row]) -> None:
        """Call and settle; rows whose turn is half over are left to the sweeper, or two would call at once."""
        began_s = monotonic()
        answered: list[tuple[Row, Any]] = []
        failed: list[dict[str, Any]] = []
        for start in range(0, len(rows), self._at_once):
            if monotonic() - began_s > self._retry_after_s / 2:
                break
            part = rows[start : start + self._at_once]
            for row, answer in zip(part, self._call_all(part), strict=True):
                if isinstance(answer, Exception):
                    failed.append(self._failure(row, answer))
                else:
                    answered.append((row, answer))
        if failed:
            last = failed[-1]["error"]
            log.warning(
                "outside calls failed, they are made again",
                extra={"table": self._table.name, "calls": len(failed), "last_error": last},
            )
        if answered or failed:
            self._settle(answered, failed)

    def _failure(self, row: Row, error: Exception) -> dict[str, Any]:
        delay_s = self._retry.delay_s(int(row["calls"]), self._random)
        return {"row_id": row["id"], "error": f"{type(error).__name__}: {error}"[:1_000], "seconds": delay_s}

    def _settle(self, answered: Sequence[tuple[Row, Any]], failed: Sequence[Row]) -> None:
        table = self._table.c
        publish: Sequence[Envelope] = ()
        with self._engine.begin() as connection:
            if answered:
                # First what follows, then the row: handlers lock in this order too.
                publish = self._follow(connection, answered) if self._follow else ()
                ids, now = [row["id"] for row, _ in answered], func.clock_timestamp()
                connection.execute(
                    update(self._table).where(table.id.in_(ids)).values(status=SENT, sent_at=now, last_error=None)
                )
            if failed:
                statement = update(self._table).where(table.id == bindparam("row_id"))
                connection.execute(statement.values(last_error=bindparam("error"), due_at=_IN_SECONDS), failed)
            if publish:
                self._sink.write(connection, publish)
        if publish:
            self._sink.after_commit(publish)

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """For one statement: committed by itself, which spares BEGIN and COMMIT their round trips."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("database failed after an outside call, the sweeper goes on", extra={"error": str(error)})


_IN_SECONDS = text("clock_timestamp() + make_interval(secs => :seconds)")


def _answer_of(call: Call, row: Row) -> Any:
    try:
        return call(row)
    except Exception as error:  # noqa: BLE001 (kept with the row, and the call is made again)
        return error
