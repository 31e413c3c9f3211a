"""Delete what is too old, every so often, one process at a time, and never in a hurry.

Small transactions, and after each a rest as long as it took: what the service is there for goes first. What fails is
logged and tried again the next time; it ends nothing. What is too old is each table's own matter:
`core.outbox.retention`, `core.inbox.claims`, `core.commands.requests`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Engine, Table, text
from sqlalchemy.exc import DBAPIError

from core.storage.database import is_transient

log = logging.getLogger(__name__)

Cleaning = Callable[[], Iterator[int]]
"""Each step deletes one batch, in a transaction of its own, and tells how many rows went."""


def clean_regularly(engine: Engine, cleanings: Mapping[str, Cleaning], every_s: float, stop: threading.Event) -> None:
    """`clean` at every full `every_s` of the clock (3,600: at minute 0 of each hour), until `stop`."""
    while not stop.wait(until_next_s(time.time(), every_s)):
        clean(engine, cleanings, stop)


def until_next_s(now_s: float, every_s: float) -> float:
    return every_s - now_s % every_s


def clean(engine: Engine, cleanings: Mapping[str, Cleaning], stop: threading.Event) -> dict[str, int]:
    """Once, table by table: how many rows went from each. A table that another process is at is passed over."""
    gone: dict[str, int] = {}
    for table, cleaning in cleanings.items():
        if stop.is_set():
            break
        try:
            with _alone_at(engine, table) as is_alone:
                if is_alone:
                    gone[table] = _gently(cleaning(), stop)
        except Exception as error:
            if isinstance(error, DBAPIError) and is_transient(error):
                told = {"table": table, "error": str(error.orig).strip()}
                log.warning("database failed, the clean-up is tried again next time", extra=told)
            else:
                log.exception("clean-up failed, it is tried again next time", extra={"table": table})
    if any(gone.values()):
        log.info("old rows deleted", extra={f"{table}_rows": rows for table, rows in gone.items()})
    return gone


def delete_older(
    engine: Engine, table: Table, instant: str, older_than: timedelta, at_most_rows: int, unless: str = "false"
) -> int:
    """Delete up to `at_most_rows` rows `r` whose column `instant` is older than that by the database's clock, and for
    which the SQL condition `unless` does not hold; how many went. Rows that someone locks are passed over."""
    statement = text(
        f"DELETE FROM {table.fullname} WHERE ctid = ANY (ARRAY(SELECT r.ctid FROM {table.fullname} r "
        f"WHERE r.{instant} < clock_timestamp() - CAST(:age AS interval) AND NOT ({unless}) "
        "LIMIT :rows FOR UPDATE OF r SKIP LOCKED))"
    )
    with engine.begin() as connection:
        # No index by age, which every writer would pay for: the table is read, and a large one takes its time.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        return connection.execute(statement, {"age": older_than, "rows": at_most_rows}).rowcount


def _gently(batches: Iterator[int], stop: threading.Event) -> int:
    gone, began_s = 0, time.monotonic()
    for rows in batches:
        gone += rows
        if stop.wait(time.monotonic() - began_s):
            break
        began_s = time.monotonic()
    return gone


@contextmanager
def _alone_at(engine: Engine, table: str) -> Iterator[bool]:
    """Whether this process has the table's advisory lock for the block; it does not wait for it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            # 'clea' in ASCII.
            statement = text("SELECT pg_try_advisory_lock(1668048225, hashtext(:name))")
            yield bool(connection.execute(statement, {"name": table}).scalar_one())
        finally:
            # The lock belongs to the session: it goes with it, also where the session is not well any more.
            connection.invalidate()
