"""Wake the relay soon after a commit, at no cost to the writer. Only a hint: a short poll stands behind it.

NOTIFY inside the writer's transaction would make all commits queue for one lock; so a thread of its own sends it
afterwards, on its own connection, at most once in `every_s` however many commits there were.
"""

import logging
import threading

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

log = logging.getLogger(__name__)

CHANNEL = "outbox"
SLICE_S = 0.2
"""How long the listener waits before it looks whether it was closed: a relay that is told to end waits for that."""


class Doorbell:
    """`ring()` sets a flag (below a microsecond) and never raises. Connects at the first ring."""

    def __init__(self, engine: Engine, every_s: float = 0.003) -> None:
        self._engine = engine
        self._every_s = every_s
        self._rung = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        if self._thread is None:
            self._start()
        self._rung.set()

    def close(self) -> None:
        """Idempotent. A ring not yet sent is given up: the relay polls."""
        self._stop.set()
        self._rung.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._send, name="doorbell", daemon=True)
                self._thread.start()

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    # NOTIFY draws a transaction id, so its commit would wait for the disk.
                    connection.exec_driver_sql("SET synchronous_commit = off")
                    while not self._stop.is_set():
                        self._rung.wait()
                        self._rung.clear()
                        connection.exec_driver_sql(f"NOTIFY {CHANNEL}")
                        self._stop.wait(self._every_s)
                    connection.exec_driver_sql("RESET synchronous_commit")
            except (DBAPIError, psycopg.Error) as error:
                log.warning("doorbell out of order, relays poll", extra={"error": str(error).strip()})
                self._stop.wait(1.0)


class Listener:
    """Sets `wake` whenever a doorbell rang in any process. Its own thread and connection."""

    def __init__(self, engine: Engine, wake: threading.Event) -> None:
        self._engine = engine
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="outbox-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                    driver = connection.connection.driver_connection
                    assert isinstance(driver, psycopg.Connection)
                    while not self._stop.is_set():
                        for _ in driver.notifies(timeout=SLICE_S, stop_after=1):
                            self._wake.set()
                    connection.exec_driver_sql(f"UNLISTEN {CHANNEL}")
            except (DBAPIError, psycopg.Error) as error:
                log.warning("outbox listener lost its connection, polling", extra={"error": str(error).strip()})
                self._stop.wait(0.5)
