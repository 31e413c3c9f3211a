"""Who owns which bucket: leases on the database's clock, an epoch that grows with each new owner, fair shares.

A keeper thread renews in its own connection while the relay publishes, takes what is free or expired, and gives back
what is above its share once nothing of it is in flight. Being late costs only repeated messages: marks are fenced.
"""

import logging
import threading
import time
from collections.abc import Iterable

import psycopg
from sqlalchemy import Engine

from core.outbox.decisions import fair_share
from core.outbox.storage import LOST, DriverSession
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)


class LeaseTable:
    """The statements; each commits by itself, synchronously. Rows are locked in bucket order, so none deadlock."""

    def __init__(self, session: DriverSession, tables: MessagingTables, owner: str, lease_s: float) -> None:
        self._session, self._owner, self._lease_s = session, owner, lease_s
        self._lease, self._relay = tables.bucket_lease.fullname, tables.relay.fullname

    def announce(self) -> int:
        """Say that this relay lives; return how many do, itself included."""
        self._session.rows(
            f"""INSERT INTO {self._relay} (owner, seen_until) VALUES (%s, clock_timestamp() + make_interval(secs => %s))
                ON CONFLICT (owner) DO UPDATE SET seen_until = excluded.seen_until RETURNING 1""",
            [self._owner, self._lease_s],
        )
        found = self._session.rows(f"SELECT count(*) FROM {self._relay} WHERE seen_until > clock_timestamp()", [])
        return int(found[0][0])

    def renew(self, held: dict[int, int]) -> dict[int, int]:
        """Prolong the leases still held at these epochs; return them."""
        found = self._session.rows(
            f"""UPDATE {self._lease} l SET leased_until = clock_timestamp() + make_interval(secs => %s)
                FROM (SELECT c.bucket FROM {self._lease} c
                      JOIN unnest(%s::smallint[], %s::bigint[]) AS held (bucket, epoch)
                           ON c.bucket = held.bucket AND c.epoch = held.epoch
                      WHERE c.owner = %s ORDER BY c.bucket FOR NO KEY UPDATE OF c) mine
                WHERE l.bucket = mine.bucket RETURNING l.bucket, l.epoch""",
            [self._lease_s, list(held), list(held.values()), self._owner],
        )
        return dict(found)

    def take(self, limit: int) -> dict[int, int]:
        """Own up to `limit` buckets that nobody holds, each at a new epoch; skips what another relay is taking."""
        found = self._session.rows(
            f"""UPDATE {self._lease} l
                SET owner = %s, epoch = l.epoch + 1, leased_until = clock_timestamp() + make_interval(secs => %s)
                FROM (SELECT bucket FROM {self._lease} WHERE owner IS NULL OR leased_until < clock_timestamp()
                      ORDER BY bucket LIMIT %s FOR NO KEY UPDATE SKIP LOCKED) free
                WHERE l.bucket = free.bucket RETURNING l.bucket, l.epoch""",
            [self._owner, self._lease_s, limit],
        )
        return dict(found)

    def release(self, held: dict[int, int]) -> None:
        """Give buckets back at once, so that their next owner need not wait for the lease to end."""
        self._session.rows(
            f"""UPDATE {self._lease} l SET owner = NULL, leased_until = NULL
                FROM (SELECT c.bucket FROM {self._lease} c
                      JOIN unnest(%s::smallint[], %s::bigint[]) AS held (bucket, epoch)
                           ON c.bucket = held.bucket AND c.epoch = held.epoch
                      WHERE c.owner = %s ORDER BY c.bucket FOR NO KEY UPDATE OF c) mine
                WHERE l.bucket = mine.bucket RETURNING 1""",
            [list(held), list(held.values()), self._owner],
        )

    def leave(self) -> None:
        self._session.rows(f"DELETE FROM {self._relay} WHERE owner = %s RETURNING 1", [self._owner])
        # Long-dead relays leave their row behind; whoever leaves cleanly sweeps.
        self._session.rows(
            f"DELETE FROM {self._relay} WHERE seen_until < clock_timestamp() - interval '1 day' RETURNING 1", []
        )


class LeaseKeeper:
    """Keeps one relay's leases from a thread of its own, from `start` to `close`."""

    def __init__(
        self, engine: Engine, tables: MessagingTables, owner: str, lease_s: float, wake: threading.Event, buckets: int
    ) -> None:
        self._engine, self._tables, self._owner, self._lease_s = engine, tables, owner, lease_s
        self._wake, self._buckets = wake, buckets
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._in_use: frozenset[int] = frozenset()
        self._valid_until = 0.0
        self._fault: psycopg.Error | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Release everything held; call when nothing is in flight any more."""
        self._stop.set()
        self._thread.join(timeout=self._lease_s)

    def use(self, also: Iterable[int]) -> dict[int, int]:
        """Bucket -> epoch of what may be read now. These and `also` (in flight) are not given back until `used`."""
        if self._fault is not None:
            raise self._fault
        with self._lock:
            if time.monotonic() >= self._valid_until:
                return {}
            mine = {bucket: epoch for bucket, epoch in self._held.items() if bucket not in self._leaving}
            self._in_use = frozenset(mine).union(also)
            return mine

    def used(self, in_flight: Iterable[int]) -> None:
        """Only these buckets have rows in flight now."""
        with self._lock:
            self._in_use = frozenset(in_flight)

    def is_valid(self) -> bool:
        """The last renewal is younger than the lease by this machine's monotonic clock: publishing makes sense.

        Not what makes marks safe (the epoch does that); it only keeps a relay that slept from repeating much.
        """
        return time.monotonic() < self._valid_until

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                with DriverSession(self._engine) as session:
                    table = LeaseTable(session, self._tables, self._owner, self._lease_s)
                    while not self._stop.is_set():
                        self._tick(table)
                        self._stop.wait(self._lease_s / 5)
                    table.release(self._held)
                    table.leave()
            except LOST as error:
                log.warning("leases not renewed", extra={"owner": self._owner, "error": str(error).strip()})
                self._stop.wait(min(0.25, self._lease_s / 5))
            except psycopg.Error as error:
                # No table, no right: waiting mends nothing, and a relay that silently owns nothing would look idle.
                self._fault = error
                self._wake.set()
                return

    def _tick(self, table: LeaseTable) -> None:
        started_at = time.monotonic()
        share = fair_share(self._buckets, table.announce())
        renewed = table.renew(self._held) if self._held else {}
        lost = sorted(self._held.keys() - renewed.keys())
        if lost:
            log.warning("leases lost, buckets handed over", extra={"owner": self._owner, "buckets": lost})
        with self._lock:
            self._leaving = set(sorted(renewed)[share:])
            giving = {bucket: epoch for bucket, epoch in renewed.items() if bucket in self._leaving - self._in_use}
            self._held = {bucket: epoch for bucket, epoch in renewed.items() if bucket not in giving}
        if giving:
            table.release(giving)
        taken = table.take(share - len(self._held)) if len(self._held) < share else {}
        with self._lock:
            self._held.update(taken)
            self._valid_until = started_at + self._lease_s
        if taken:
            log.info("buckets taken", extra={"owner": self._owner, "buckets": sorted(taken), "share": share})
            self._wake.set()
