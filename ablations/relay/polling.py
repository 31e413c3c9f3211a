"""The relay of the articles: every tick, in one transaction, read pending rows, send them, mark them.

What differs between the variants is how rows are claimed (`none`, `lock`, `for_update`, `skip_locked`), whether the
answer is awaited (`confirm_none`) and whether a failed row holds its key (`order`: `hold_key` or `ignore`).
"""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from core.journey import NoProbe, Probe, Step
from core.messaging.outcomes import Outcome, Status
from core.messaging.ports import Publisher
from core.outbox.decisions import Row, settle
from core.outbox.relay import RelayOptions
from core.outbox.storage import rows_from
from core.storage.event_store import event_as_envelope
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)

NAIVE = RelayOptions(batch_messages=1_000, poll_s=1.0)
"""Rows S0.11, S1.16: one second after the run before, up to 1,000 rows."""


class Claim(Protocol):
    """How a tick makes sure, or fails to, that no other relay sends the same rows."""

    locking: str
    """What follows the SELECT."""

    def enter(self, engine: Engine, owner: str) -> bool:
        """Whether this tick may run at all."""

    def leave(self, engine: Engine, owner: str) -> None: ...


class PollingRelay:
    """Same constructor and `run` as `core.outbox.relay.Relay`, but for the seams' values in front."""

    def __init__(
        self,
        claim: Claim,
        hold_key: bool,
        row_by_row: bool,
        engine: Engine,
        tables: MessagingTables,
        publisher: Publisher,
        options: RelayOptions | None = None,
        probe: Probe | None = None,
        owner: str | None = None,
    ) -> None:
        self._claim, self._hold_key, self._row_by_row = claim, hold_key, row_by_row
        self._engine, self._tables, self._publisher = engine, tables, publisher
        self._options = options or NAIVE
        self._probe = probe or NoProbe()
        self._owner = owner or f"relay-{id(self)}"

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._tick(stop)
            except DBAPIError as error:
                log.error("relay run failed", extra={"error": str(error).strip()})
            stop.wait(self._options.poll_s)

    def _tick(self, stop: threading.Event) -> None:
        if not self._claim.enter(self._engine, self._owner):
            return
        try:
            with self._engine.begin() as connection:
                rows = self._read(connection)
                # Row by row: each row is sent and its answer awaited before the next is sent.
                for batch in [[row] for row in rows] if self._row_by_row else [rows] if rows else []:
                    if stop.is_set():
                        break
                    self._send(connection, batch)
        finally:
            self._claim.leave(self._engine, self._owner)

    def _read(self, connection: Connection) -> list[Row]:
        pending, event = self._tables.pending.fullname, self._tables.event.fullname
        held = f"AND key NOT IN (SELECT key FROM {pending} WHERE parked_at IS NOT NULL)" if self._hold_key else ""
        found = connection.exec_driver_sql(
            f"""SELECT p.id, p.bucket, p.attempts, {event_as_envelope(self._tables)}
                FROM {pending} p JOIN {event} e ON e.id = p.id
                WHERE p.parked_at IS NULL {held} ORDER BY p.id LIMIT %s {self._claim.locking}""",
            (self._options.batch_messages,),
        )
        return rows_from([tuple(row) for row in found])

    def _send(self, connection: Connection, rows: Sequence[Row]) -> None:
        ids = [row.envelope.id for row in rows]
        self._probe.reach(Step.LEASED, ids)
        self._probe.reach(Step.ATTEMPTED, ids)
        outcomes = self._publisher.publish([row.envelope for row in rows], self._options.publish_timeout_s)
        self._probe.reach(Step.CONFIRMED, ids, outcomes=[outcome.status for outcome in outcomes])
        self._mark(connection, rows, outcomes)

    def _mark(self, connection: Connection, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        if self._hold_key:
            cleared = settle(rows, outcomes, max_attempts=5, refused_wait_s=0, unknown_wait_s=0).cleared
        else:
            cleared = tuple(row for row, outcome in zip(rows, outcomes, strict=True) if outcome.is_confirmed)
        pending = self._tables.pending.fullname
        if cleared:
            connection.exec_driver_sql(
                f"""WITH gone AS (DELETE FROM {pending} WHERE id = ANY(%s::bigint[]) RETURNING id, attempts)
                    INSERT INTO {self._tables.cleared.fullname} (event_ids, attempts)
                    SELECT array_agg(id), array_agg(attempts) FROM gone HAVING count(*) > 0""",
                ([row.id for row in cleared],),
            )
            self._probe.reach(Step.CLEARED, [row.envelope.id for row in cleared])
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.status is not Status.CONFIRMED:
                # Rows S0.12: whatever went wrong counts, an outage as much as a poison message.
                connection.exec_driver_sql(
                    f"""UPDATE {pending} SET attempts = attempts + 1, last_error = %s,
                        parked_at = CASE WHEN attempts + 1 >= %s THEN clock_timestamp() END,
                        next_try_at = CASE WHEN attempts + 1 >= %s THEN clock_timestamp() END WHERE id = %s""",
                    (outcome.reason[:2_000], self._options.max_attempts, self._options.max_attempts, row.id),
                )
