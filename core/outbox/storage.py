"""The relay's statements, on a raw driver connection: rows come as tuples and go straight into envelopes.

Every write of an outcome is one statement that locks the lease rows `FOR SHARE` at the epoch the owner holds. A taker
raises the epoch in an update, so it waits for a mark under way, and a mark that comes after it finds no lease row and
changes nothing: a paused owner that wakes can repeat messages, it can never mark one.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, cast

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from core.messaging.envelope import Envelope
from core.outbox.decisions import Failure, Row
from core.storage.event_store import event_as_envelope
from core.storage.tables import MessagingTables

LOST = (
    DBAPIError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.AdminShutdown,
    psycopg.errors.ReadOnlySqlTransaction,
)
"""What a lost or restarted database raises here; the last one a standby that was not yet promoted."""

# Nested loops over the primary key, whatever the statistics of a table that is empty one second and full the next say.
PLANNER = (
    "SET enable_seqscan=off; SET enable_bitmapscan=off; SET enable_hashjoin=off; SET enable_mergejoin=off;"
    # Only a plan made for the given array looks ids up by hash; a generic one compares each row with each of them.
    "SET plan_cache_mode=force_custom_plan"
)


class DriverSession:
    """One psycopg connection in autocommit, taken from the engine's pool and closed at the end, settings and all."""

    def __init__(self, engine: Engine, settings: str = "") -> None:
        self._fairy = engine.raw_connection()
        try:
            driver = self._fairy.driver_connection
            assert isinstance(driver, psycopg.Connection)
            driver.autocommit = True
            # The same statement text again and again: prepared at its second use, planned once.
            driver.prepare_threshold = 1
            if settings:
                driver.execute(settings)
            self._cursor = driver.cursor(binary=True)
        except BaseException:
            self._fairy.invalidate()
            raise

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._cursor.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._fairy.invalidate()

    def __enter__(self) -> "DriverSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Depth(NamedTuple):
    depth_messages: int
    age_s: float
    """Of the oldest pending event; 0.0 if none."""
    parked_keys: int


class Horizon(NamedTuple):
    """What one snapshot says about rows still to come."""

    oldest_running: int
    """Every transaction below this one has ended; what it committed is visible."""
    next_transaction: int
    lowest: int | None
    """The lowest pending row of the given buckets, whatever its state: in flight, waiting, parked."""


class OutboxStorage:
    """Reads and marks pending rows for one relay."""

    def __init__(self, session: DriverSession, tables: MessagingTables, hold_condition: str | None = None) -> None:
        """`hold_condition`: a test's or ablation's own instead of "no row of this key waits or is parked"."""
        self._session = session
        event, pending, lease = tables.event.fullname, tables.pending.fullname, tables.bucket_lease.fullname
        fence = f"""
            SELECT l.bucket FROM {lease} l JOIN unnest(%s::smallint[], %s::bigint[]) AS held (bucket, epoch)
                   ON l.bucket = held.bucket AND l.epoch = held.epoch
            ORDER BY l.bucket FOR SHARE OF l"""
        candidates = f"""
            SELECT id, bucket, attempts FROM {pending} p
            WHERE bucket = ANY(%s::smallint[]) AND id <> ALL(%s::bigint[]) AND key <> ALL(%s::text[])"""
        if hold_condition is None:
            hold_condition = f"""AND key NOT IN (
                SELECT key FROM {pending}
                WHERE next_try_at IS NOT NULL AND (parked_at IS NOT NULL OR next_try_at > statement_timestamp()))"""
        self._read = f"""
            WITH candidate AS MATERIALIZED (
                ({candidates} AND id >= %s AND next_try_at IS NULL {hold_condition}
                 ORDER BY id LIMIT %s)
                UNION ALL
                ({candidates} AND next_try_at <= statement_timestamp() AND parked_at IS NULL ORDER BY id LIMIT %s)
                ORDER BY id LIMIT %s
            )
            SELECT c.id, c.bucket, c.attempts, {event_as_envelope(tables)}
            FROM candidate c JOIN {event} e ON e.id = c.id ORDER BY c.id"""
        self._horizon = f"""
            SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint,
                   (SELECT id FROM {pending} WHERE bucket = ANY(%s::smallint[]) AND id >= %s ORDER BY id LIMIT 1)
            FROM pg_current_snapshot() s"""
        # The one commit that may be lost in a crash of the database: then rows are published twice, none is skipped.
        self._clear = f"""
            WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS setting),
            fence AS MATERIALIZED ({fence}),
            gone AS (
                DELETE FROM {pending}
                WHERE id = ANY(%s::bigint[]) AND bucket = ANY(ARRAY(SELECT bucket FROM fence))
                      AND (SELECT setting FROM quick) = 'off'
                RETURNING id, attempts
            )
            INSERT INTO {tables.cleared.fullname} (event_ids, attempts)
            SELECT array_agg(id), CASE WHEN max(attempts) > 0 THEN array_agg(attempts) END FROM gone HAVING count(*) > 0
            RETURNING event_ids"""
        self._fail = f"""
            WITH fence AS MATERIALIZED ({fence})
            UPDATE {pending} p
            SET attempts = failed.attempts,
                last_error = failed.reason,
                next_try_at = statement_timestamp() + make_interval(secs => failed.wait_s),
                parked_at = CASE WHEN failed.parked THEN statement_timestamp() END
            FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::float8[], %s::bool[])
                 AS failed (id, attempts, reason, wait_s, parked)
            WHERE p.id = failed.id AND p.bucket = ANY(ARRAY(SELECT bucket FROM fence))
            RETURNING p.id"""

    def read(
        self,
        buckets: Sequence[int],
        limit: int,
        in_flight: Sequence[int],
        from_id: int = 0,
        silent_keys: Sequence[str] = (),
    ) -> list[Row]:
        """The lowest pending rows that may go now, in outbox order. `from_id`: where to start looking."""
        if not buckets:
            return []
        own = [list(buckets), list(in_flight), list(silent_keys)]
        found = self._session.rows(self._read, [*own, from_id, limit, *own, limit, limit])
        return rows_from(found)

    def horizon(self, buckets: Sequence[int], from_id: int = 0) -> "Horizon":
        found = self._session.rows(self._horizon, [list(buckets), from_id])
        return Horizon(*found[0])

    def clear(self, rows: Sequence[Row], epochs: Mapping[int, int]) -> set[int]:
        """Delete confirmed rows of buckets still held at `epochs`; return the ids that were deleted."""
        if not rows or not epochs:
            return set()
        ids = [row.id for row in rows]
        found = self._session.rows(self._clear, [list(epochs), list(epochs.values()), ids])
        return set(cast("list[int]", found[0][0])) if found else set()

    def fail(self, failures: Sequence[Failure], epochs: Mapping[int, int]) -> set[int]:
        """Write attempts, reason and waiting time or parking; return the ids that were written."""
        if not failures or not epochs:
            return set()
        columns = [
            [failure.row.id for failure in failures],
            [failure.attempts for failure in failures],
            [failure.reason.replace("\x00", "")[:2_000] for failure in failures],
            [failure.wait_s for failure in failures],
            [failure.is_parked for failure in failures],
        ]
        return {row[0] for row in self._session.rows(self._fail, [list(epochs), list(epochs.values()), *columns])}


def rows_from(found: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Tuples of id, bucket, attempts and `event_as_envelope`: slices and NamedTuples, nothing slower."""
    make = Envelope._make
    no_headers = ((),)
    return [Row(row[0], row[1], row[2], make(row[3:] + no_headers)) for row in found]


def requeue(connection: Connection, tables: MessagingTables, keys: Sequence[str] | None = None) -> int:
    """Let parked keys (None: all of them) go again, attempts counted anew; return how many keys. `last_error` stays."""
    where = "parked_at IS NOT NULL AND next_try_at IS NOT NULL" + ("" if keys is None else " AND key = ANY(%s)")
    done = connection.exec_driver_sql(
        f"UPDATE {tables.pending.fullname} SET parked_at = NULL, next_try_at = NULL, attempts = 0 WHERE {where}",
        () if keys is None else (list(keys),),
    )
    return done.rowcount


def measure_depth(connection: Connection, tables: MessagingTables) -> Depth:
    """Messages not yet cleared, age of the oldest, parked keys; reads the narrow table only."""
    pending, event = tables.pending.fullname, tables.event.fullname
    depth, age, parked = connection.exec_driver_sql(
        f"""
        SELECT (SELECT count(*) FROM {pending}),
               (SELECT extract(epoch FROM clock_timestamp() - e.occurred_at)::float8 FROM {event} e
                WHERE e.id = (SELECT id FROM {pending} ORDER BY id LIMIT 1)),
               (SELECT count(*) FROM {pending} WHERE next_try_at IS NOT NULL AND parked_at IS NOT NULL)"""
    ).one()
    return Depth(depth, max(age or 0.0, 0.0), parked)
