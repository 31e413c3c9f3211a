"""What each part of a run uses and how far it is behind, once a second, into the history."""

import contextlib
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

import psutil
from sqlalchemy.exc import SQLAlchemyError

from core.messaging.errors import BrokerError
from core.messaging.ports import Lag
from core.outbox.storage import measure_depth
from history.recorder import Recorder
from testbed.traffic import Traffic
from testbed.wiring import Database


class Sampled(Protocol):
    """The system that is looked at."""

    @property
    def kept_in(self) -> Database | None:
        """The database that holds the outbox; None where there is none."""

    @property
    def groups(self) -> Iterable[str]: ...

    def parts(self) -> dict[str, list[int]]:
        """Part -> the process ids it had so far."""

    def lag(self, group: str) -> Mapping[str, Lag]:
        """By topic."""


class Sampler(threading.Thread):
    """Each second: what every part has used, how far each group is behind, how deep the outbox is."""

    def __init__(self, lab: Sampled, recorder: Recorder) -> None:
        super().__init__(name="sampler", daemon=True)
        self._lab = lab
        self._recorder = recorder
        self._ended = threading.Event()
        self._gone: dict[str, dict[int, tuple[float, int]]] = {}
        self._traffic = Traffic()

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join(timeout=10)

    def run(self) -> None:
        while not self._ended.wait(1.0):
            parts = self._lab.parts()
            network_bytes = self._traffic.look(parts) or {}
            for part, pids in parts.items():
                self._sample(part, pids, network_bytes.get(part))
            # A broker or database that is being broken on purpose cannot tell; the gap in the series is the truth.
            database = self._lab.kept_in
            if database is not None:
                with contextlib.suppress(SQLAlchemyError), database.engine.connect() as connection:
                    depth = measure_depth(connection, database.messaging)
                    self._recorder.outbox(depth.depth_messages, depth.age_s)
            with contextlib.suppress(BrokerError):
                for group in self._lab.groups:
                    for topic, lag in self._lab.lag(group).items():
                        self._recorder.lag(group, topic, lag.lag_messages, lag.delay_s)

    def _sample(self, part: str, pids: list[int], network_bytes: int | None) -> None:
        """CPU and disk add up over processes that have ended meanwhile; memory is of those that live."""
        seen = self._gone.setdefault(part, {})
        rss_bytes = 0
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                with process.oneshot():
                    times, io = process.cpu_times(), process.io_counters()
                    rss_bytes += process.memory_info().rss
                seen[pid] = (times.user + times.system, io.write_bytes)
        if seen:
            cpu_s, disk_bytes = (sum(used) for used in zip(*seen.values(), strict=True))
            self._recorder.sample(part, cpu_s, rss_bytes, int(disk_bytes), network_bytes)
