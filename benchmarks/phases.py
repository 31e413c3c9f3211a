"""One experiment, phase by phase: warm-up, load with faults, heal, drain, check. Works on a `System` it is handed.

The folder it leaves is complete in itself: the verdict is computed from its files alone. A run that is cut short
(Ctrl-C, a process that died by itself, a fault that could not be done) leaves a readable folder whose verdict is
*unknown*.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.evidence import evidence_of
from benchmarks.in_flight import PublishesInFlight
from benchmarks.scenario import Fault, Load, Scenario
from faults.catalogue import FAULTS, Lab
from faults.injector import Injector, Planned, Struck
from history.reader import line_counts
from history.recorder import Recorder

DRIVER_START_S = 3.0
"""Between starting the load driver and its first arrival: imports and connections."""
PREPARE_S = 4e-6
"""An arrival of a driver below the API, which makes its whole schedule beforehand."""
SETTLE_POLL_S = 0.25
AT_WORK = {"api": {"api", "relays", "consumers"}, "outbox": {"relays", "consumers"}, "broker": {"consumers"}}
"""Level of the load -> the roles that have a part in the run; at broker level a consumer is a receiver."""


class System(Lab, Protocol):
    """The system under test with its real services and processes."""

    def start(self) -> None:
        """Services, an empty database, the topology, every role; returns when all are at work."""

    def start_driver(self, plan: Mapping[str, Any]) -> None: ...

    def is_driving(self) -> bool: ...

    def check_alive(self) -> None:
        """Raises RunBroken when a process ended that nobody killed."""

    def restart_missing(self) -> None:
        """Start every role process anew that a fault left dead or paused."""

    def stop_consumers(self) -> None:
        """End every consumer process in good order: what it was handed and did not ack is owed again."""

    def start_consumers(self) -> None:
        """Fresh processes; returns when they are at work."""

    def backlog(self) -> int | None:
        """Messages still owed: rows of the outbox (if any) not held by a parked key + lag of every group.

        None while the database or the broker cannot tell.
        """

    def stop_roles(self) -> None:
        """Ask every role process to end in good order, and wait for it."""

    def export_ledger(self, folder: Path) -> None: ...

    def history_files(self) -> list[str]: ...

    def describe(self) -> dict[str, Any]:
        """versions, machine, settings, strategies, git_revision of run.json."""

    def close(self) -> None:
        """End everything that was started; idempotent."""


class RunBroken(Exception):
    """The run could not be carried through; says what ended or failed, and where its log is."""


@dataclass(frozen=True)
class Moment:
    """For whoever shows progress."""

    phase: str
    left_s: float
    """Until the phase ends by plan; for the drain at most."""
    note: str = ""


def run_experiment(
    scenario: Scenario,
    broker: str,
    seed: int,
    system: System,
    recorder: Recorder,
    folder: Path,
    work_per_s: float,
    show: Callable[[Moment], None],
    sets: Sequence[str] = (),
) -> None:
    """Fill `folder` with run.json, history/ and ledger/. Raises RunBroken or KeyboardInterrupt after doing so.

    `work_per_s`: how fast the machine was before anything of the run was started on it (`calibration`).
    """
    run = _Run(scenario, broker, seed, system, recorder, folder, work_per_s, show, sets)
    try:
        run.load()
        run.heal()
        run.drain()
    finally:
        run.check()


@dataclass
class _Run:
    scenario: Scenario
    broker: str
    seed: int
    system: System
    recorder: Recorder
    folder: Path
    work_per_s: float
    show: Callable[[Moment], None]
    sets: Sequence[str]
    started_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    start_ns: int = 0
    struck: Sequence[Struck] = ()
    drained: bool = False
    drain_s: float = 0.0

    def load(self) -> None:
        load = self.scenario.load
        self.show(Moment("start", 15))
        self.system.start()
        self.start_ns = time.time_ns() + int((driver_start_s(load) + load.warm_up_s) * 1e9)
        self.system.start_driver({"load": load.model_dump(), "seed": self.seed, "start_ns": self.start_ns})
        self.recorder.phase("warm_up", contract=self.scenario.forbids)
        in_flight = PublishesInFlight(self.folder / "history")
        injector = Injector(
            [_planned(fault, in_flight) for fault in self.scenario.faults], self.system, self.recorder, self._now_s
        )
        self._watch("warm_up", 0.0, injector)
        self.recorder.phase("load")
        injector.start()
        try:
            self._watch("load", load.duration_s, injector)
            while self.system.is_driving():
                self.system.check_alive()
                time.sleep(SETTLE_POLL_S)
        finally:
            injector.stop()
            injector.join()
            self.struck = injector.struck
        if injector.failure is not None:
            raise RunBroken(f"a fault could not be carried out: {injector.failure}") from injector.failure

    def heal(self) -> None:
        self.show(Moment("heal", 5))
        self.recorder.phase("heal")
        self.system.restart_missing()

    def drain(self) -> None:
        """Wait until nothing is owed, then make sure of it and let fresh consumers read to the end.

        While consumers are connected a broker may tell late what they hold unacked (RabbitMQ's statistics are seconds
        old). Without any the count is exact; so the drain is complete only if nothing was owed then.
        """
        self.recorder.phase("drain")
        began_s = time.monotonic()
        try:
            while self._settle(began_s):
                self.system.stop_consumers()
                nothing_owed = self._settle(began_s, quiet_polls=2, patience_s=10.0)
                self.system.start_consumers()
                if nothing_owed:
                    self.drained = self._settle(began_s)
                    break
        finally:
            self.drain_s = time.monotonic() - began_s

    def check(self) -> None:
        self.show(Moment("check", 5))
        self.recorder.phase("check", complete=self.drained)
        self.system.stop_roles()
        try:
            if self.start_ns:
                self.system.export_ledger(self.folder / "ledger")
        finally:
            # Whatever became of the ledger: with a part of it the verdict is unknown, without this file there is none.
            self.recorder.close()
            (self.folder / "run.json").write_text(json.dumps(self._run_file(), indent=2, default=str) + "\n")

    def _settle(self, began_s: float, quiet_polls: int = 3, patience_s: float = float("inf")) -> bool:
        """Whether nothing was owed, several times in a row, before the drain's time or the patience ran out."""
        quiet = 0
        give_up_s = min(began_s + self.scenario.drain_s, time.monotonic() + patience_s)
        while (left_s := give_up_s - time.monotonic()) > 0:
            self.system.check_alive()
            backlog = self.system.backlog()
            self.show(Moment("drain", left_s, "no answer yet" if backlog is None else f"{backlog} owed"))
            # In a row: a message between outbox and broker is in neither count for an instant.
            quiet = quiet + 1 if backlog == 0 else 0
            if quiet == quiet_polls:
                return True
            time.sleep(SETTLE_POLL_S)
        return False

    def _watch(self, phase: str, until_s: float, injector: Injector) -> None:
        while (left_s := until_s - self._now_s()) > 0:
            self.system.check_alive()
            if injector.failure is not None:
                return
            self.show(Moment(phase, left_s, ", ".join(f"{done.fault} done" for done in injector.struck)))
            time.sleep(min(left_s, SETTLE_POLL_S))

    def _now_s(self) -> float:
        return (self.recorder.now_ns() - self.start_ns) / 1e9

    def _run_file(self) -> dict[str, Any]:
        load, described = self.scenario.load, self.system.describe()
        return {
            "format": 1,
            "broker": self.broker,
            "scenario": self.scenario.name,
            "question": self.scenario.question,
            "seed": self.seed,
            "sets": list(self.sets),
            "started_at": self.started_at,
            **described,
            "machine": {**described["machine"], "work_per_s": self.work_per_s},
            "contract": list(self.scenario.forbids),
            "schedule": {
                **load.model_dump(),
                "load_s": load.duration_s,
                "start_ns": self.start_ns,
                "drain_s": self.scenario.drain_s,
            },
            "roles": self.scenario.roles.model_dump(include=AT_WORK[load.level]),
            "plan": self.scenario.model_dump(mode="json"),
            "faults": [self._told(planned) for planned in self._all_struck()],
            "history_files": self.system.history_files(),
            "files": line_counts(self.folder),
            "drain": {"complete": self.drained, "waited_s": round(self.drain_s, 3)},
        }

    def _all_struck(self) -> list[Struck]:
        done = list(self.struck)
        for fault in sorted(self.scenario.faults, key=lambda fault: fault.at_s)[len(done) :]:
            done.append(Struck(fault.fault, fault.at_s, None, None, "the run ended before it"))
        return done

    def _told(self, struck: Struck) -> dict[str, Any]:
        """A fault counts only if it left the mark that its kind leaves."""
        told = asdict(struck)
        if struck.fired_at_s is None:
            return told
        from_ns, to_ns = (
            self.start_ns + int(at_s * 1e9) for at_s in (struck.fired_at_s, struck.healed_at_s or struck.fired_at_s)
        )
        told |= evidence_of(FAULTS[struck.fault], self.folder / "history", from_ns, to_ns)
        if told["missed"]:
            told["fired_at_s"] = None
        return told


def driver_start_s(load: Load) -> float:
    """Between starting the driver and the first arrival of its warm-up."""
    return DRIVER_START_S + (0.0 if load.level == "api" else load.expected_arrivals * PREPARE_S)


def _planned(fault: Fault, in_flight: PublishesInFlight) -> Planned:
    trigger = in_flight.any if fault.when == "publish_in_flight" else _at_once
    return Planned(fault.fault, fault.at_s, fault.for_s, trigger, fault.give_up_after_s)


def _at_once() -> bool:
    return True
