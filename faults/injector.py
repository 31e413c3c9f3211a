"""Strike the planned faults at their time, once their trigger holds, and heal them; say what was truly done.

A fault fires at the first instant from its time on at which its trigger holds. One that could not fire is reported as
missed: such a run proves nothing.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faults.catalogue import FAULTS, FaultMissed, Lab
from history.recorder import Recorder


@dataclass(frozen=True)
class Planned:
    fault: str
    at_s: float
    """From the start of the load phase."""
    for_s: float
    trigger: Callable[[], bool]
    give_up_after_s: float


@dataclass(frozen=True)
class Struck:
    fault: str
    planned_at_s: float
    fired_at_s: float | None
    """None: missed."""
    healed_at_s: float | None
    missed: str = ""
    """Why, if it was."""


class Injector(threading.Thread):
    """Runs a schedule beside the load. `join()`, then read `struck`; an unexpected error is in `failure`."""

    def __init__(self, schedule: Sequence[Planned], lab: Lab, recorder: Recorder, now_s: Callable[[], float]) -> None:
        super().__init__(name="injector", daemon=True)
        self._schedule = sorted(schedule, key=lambda planned: planned.at_s)
        self._lab = lab
        self._recorder = recorder
        self._now_s = now_s
        self._ended = threading.Event()
        self.struck: list[Struck] = []
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        try:
            for planned in self._schedule:
                if not self._wait_until(planned.at_s):
                    return
                self.struck.append(self._strike(planned))
        except BaseException as error:  # noqa: BLE001 - handed to the run's own thread, which judges it
            self.failure = error

    def _strike(self, planned: Planned) -> Struck:
        fault = FAULTS[planned.fault]
        deadline_s = self._now_s() + planned.give_up_after_s
        while not planned.trigger():
            if self._now_s() > deadline_s or self._ended.is_set():
                return Struck(planned.fault, planned.at_s, None, None, "its trigger never held")
            time.sleep(0.001)
        try:
            fault.inject(self._lab)
        except FaultMissed as error:
            # What could not be done at all cannot be undone either.
            with contextlib.suppress(FaultMissed):
                fault.heal(self._lab)
            return Struck(planned.fault, planned.at_s, None, None, str(error))
        fired_at_s = self._now_s()
        self._recorder.fault(planned.fault, "inject", fault.target, fault.sentence)
        self._wait_until(fired_at_s + planned.for_s)
        fault.heal(self._lab)
        self._recorder.fault(planned.fault, "heal", fault.target)
        return Struck(planned.fault, planned.at_s, fired_at_s, self._now_s())

    def _wait_until(self, at_s: float) -> bool:
        """False when stopped before."""
        return not self._ended.wait(max(0.0, at_s - self._now_s()))
