"""One role of the system as a real process of a run: started, signalled, waited for, ended, with its log kept."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 20.0
ROOT = Path(__file__).parent.parent


class RoleProcess:
    """One role as a process; may be started again after it died."""

    def __init__(self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self.mortal = False
        """A fault has killed it, or may at any time: its death is no surprise."""
        self.pids: list[int] = []
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                env={**os.environ, **self._environment, **more},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # ^C is for the parent alone: it ends the roles in order.
                start_new_session=True,
            )
        self.pids.append(self._process.pid)
        self.mortal = bool(more)

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if not self.wait(STOP_TIMEOUT_S):
            self.signal(signal.SIGKILL)
            self.wait(STOP_TIMEOUT_S)


class Slowed(threading.Thread):
    """Stops processes for nine tenths of the time, by signals."""

    RUNS_S, STOPS_S = 0.02, 0.18

    def __init__(self, processes: Sequence[RoleProcess]) -> None:
        super().__init__(name="slowed", daemon=True)
        self._processes = processes
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.RUNS_S):
            self._signal(signal.SIGSTOP)
            self._ended.wait(self.STOPS_S)
            self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Returns when they run at full speed again."""
        self._ended.set()
        self.join()

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.signal(number)
