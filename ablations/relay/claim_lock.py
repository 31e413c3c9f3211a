"""relay.claim=lock: one relay at a time by a lock that ends after 5 s, without renewal or fencing (row S0.30).

Named outbox-publisher-lock; not held means skip this tick. Predicted: wire duplicates when one batch takes longer than
the lease (slow broker, paused relay): a second relay comes in and nothing stops the first from going on.
"""

from sqlalchemy import Engine

LEASE_S = 5.0
NAME = "outbox-publisher-lock"


class LockWithLease:
    locking = ""

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._is_created = False

    def enter(self, engine: Engine, owner: str) -> bool:
        with engine.begin() as connection:
            if not self._is_created:
                # Two relays creating it at once would fail on the catalogue's unique index.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1819239275)")
                connection.exec_driver_sql(
                    "CREATE TABLE IF NOT EXISTS relay_lock "
                    "(name text PRIMARY KEY, owner text NOT NULL, locked_until timestamptz NOT NULL)"
                )
                self._is_created = True
            taken = connection.exec_driver_sql(
                """INSERT INTO relay_lock VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))
                   ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, locked_until = excluded.locked_until
                   WHERE relay_lock.locked_until < clock_timestamp() RETURNING 1""",
                (NAME, owner, self._lease_s),
            )
            return taken.first() is not None

    def leave(self, engine: Engine, owner: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM relay_lock WHERE name = %s AND owner = %s", (NAME, owner))
