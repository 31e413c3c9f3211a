"""One engine, one transaction: how this code reaches PostgreSQL. Nothing connects before the first statement.

Which tables there are: `tables`. How they come to be: `schema`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

T = TypeVar("T")

STATEMENT_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 15.0
SERIALIZATION_FAILURE, DEADLOCK = "40001", "40P01"
_AWAY = ("08", "40", "53", "57P", "57014", "58", "55P03", "25P", "25006")
"""SQLSTATE: connection, rollback (deadlock, serialization), resources, operator intervention, cancelled statement,
system, lock not available, idle or whole transaction timed out, read only (after a failover, a standby still)."""


class DatabaseUnavailable(Exception):
    def __init__(self, address: str, waited_s: float) -> None:
        super().__init__(f"the database at {address} did not answer within {waited_s:g} s; is it started?")


def create_database_engine(
    url: str,
    *,
    pool_connections: int = 10,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    connect_timeout_s: float = 5.0,
) -> Engine:
    """An engine over psycopg 3, in UTC. `postgresql://…` and `postgresql+psycopg://…` are taken alike.

    A pooled connection that died (database restarted) is noticed and replaced when it is taken from the pool.
    """
    settings = {
        "timezone": "UTC",
        "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
        "lock_timeout": f"{lock_timeout_s * 1000:.0f}",
        # Compiling pays for long reports only, and costs 100 ms where the planner misjudges a short statement.
        "jit": "off",
    }
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_connections,
        max_overflow=pool_connections,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(1, round(connect_timeout_s)),
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            # A dead host must not hold a relay for the two hours TCP would take.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )


def wait_for_database(engine: Engine, timeout_s: float) -> None:
    """Return when a query was answered; raise DatabaseUnavailable after `timeout_s` seconds."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
            return
        except OperationalError as error:
            if time.monotonic() >= give_up_at:
                raise DatabaseUnavailable(f"{engine.url.host}:{engine.url.port}", timeout_s) from error
            time.sleep(0.05)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One read-committed transaction: committed when the block ends, rolled back when it raises."""
    with engine.begin() as connection:
        yield connection


def in_transaction(engine: Engine, work: Callable[[Connection], T], tries: int = 10) -> T:
    """Run `work` in a transaction, again from the start if it met a deadlock, a conflict or a lost connection.

    A connection lost during the commit leaves open whether it committed: `work` must be safe to repeat.
    """
    for failures in range(1, tries + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if failures == tries or not is_transient(error):
                raise
            time.sleep(min(0.01 * 2**failures, 1.0))
    raise AssertionError("tries must be at least 1")


def lacks_table(error: BaseException) -> bool:
    """Whether a statement named a table that is not there: the schema was never made in this database."""
    return isinstance(_cause(error), psycopg.errors.UndefinedTable)


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed when it is run again at once: nothing is wrong with what it writes."""
    state = getattr(error.orig, "sqlstate", None)
    if state in (SERIALIZATION_FAILURE, DEADLOCK):
        return True
    # 57P01..57P03: the server is shutting down or starting; 08…: connection; None: the socket just closed.
    lost = state is None or state.startswith(("08", "57P"))
    return error.connection_invalidated or (isinstance(error, OperationalError) and lost)


def is_away(error: BaseException) -> bool:
    """The database does not answer, or not this for now: the same may go well a moment later, as it stands."""
    if isinstance(error, PoolTimeout):
        return True
    cause = _cause(error)
    # psycopg has no state where it never got an answer: the connection was refused, or was lost.
    unanswered = isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) and cause.sqlstate is None
    return unanswered or has_state(error, _AWAY)


def has_state(error: BaseException, states: tuple[str, ...]) -> bool:
    """Whether the database gave it an SQLSTATE that begins so."""
    cause = _cause(error)
    return isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith(states)


def _cause(error: BaseException) -> BaseException | None:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) else error
