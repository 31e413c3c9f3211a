"""Faults strike at their time when their trigger holds; what could not be done is said to be missed."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from faults.catalogue import FAULTS, FaultMissed, Lab
from faults.crash import parse_crash_point
from faults.injector import Injector, Planned
from faults.network import Rule
from history.recorder import Recorder
from servers.container import External
from servers.lifecycle import NotControlled
from testbed.services import inject


class Role:
    """Stands for the running system: notes what was asked of it."""

    def __init__(self, crash_is_missed: bool = False) -> None:
        self.asked: list[str] = []
        self.crash_is_missed = crash_is_missed

    def kill_role(self, role: str) -> None:
        self.asked.append(f"kill {role}")

    def restart_role(self, role: str) -> None:
        self.asked.append(f"restart {role}")

    def arm_crash(self, role: str, step: str) -> None:
        self.asked.append(f"crash {role} at {step}")
        if self.crash_is_missed:
            raise FaultMissed("it did not die")

    @property
    def network(self) -> "Role":
        return self

    connections = 0

    def apply(self, rule: Rule) -> None:
        self.asked.append("reset" if rule.resets else f"answers lost: {rule.answers.is_lost}")

    def heal(self) -> None:
        self.asked.append("network healed")

    @property
    def broker_server(self) -> "Role":
        return self

    name = "kafka"


def strike(lab: Role, folder: Path, planned: list[Planned]) -> Injector:
    began_s = time.monotonic()
    recorder = Recorder(folder, "parent")
    injector = Injector(planned, cast(Lab, lab), recorder, lambda: time.monotonic() - began_s)
    injector.start()
    injector.join(timeout=10)
    recorder.close()
    return injector


def at(fault: str, at_s: float, trigger: Callable[[], bool] = lambda: True) -> Planned:
    return Planned(fault, at_s, 0.05, trigger, 0.2)


def test_faults_strike_in_the_order_of_their_times_and_are_healed(tmp_path: Path) -> None:
    lab = Role()
    injector = strike(lab, tmp_path, [at("consumer-kill", 0.1), at("relay-crash", 0.0)])
    assert lab.asked == ["crash relay at confirmed", "restart relay", "kill consumer", "restart consumer"]
    assert [done.fault for done in injector.struck] == ["relay-crash", "consumer-kill"]
    assert injector.struck[1].fired_at_s is not None
    assert injector.struck[1].fired_at_s >= 0.1


def test_a_trigger_that_never_holds_makes_a_missed_fault_and_no_damage(tmp_path: Path) -> None:
    lab = Role()
    injector = strike(lab, tmp_path, [at("relay-kill", 0.0, lambda: False)])
    assert lab.asked == []
    assert injector.struck[0].fired_at_s is None
    assert injector.struck[0].missed == "its trigger never held"


def test_a_crash_point_that_was_not_reached_is_missed_and_the_role_runs_again(tmp_path: Path) -> None:
    lab = Role(crash_is_missed=True)
    injector = strike(lab, tmp_path, [at("relay-crash", 0.0)])
    assert injector.struck[0].missed == "it did not die"
    assert lab.asked[-1] == "restart relay"


def test_a_network_fault_applies_its_rule_and_the_heal_takes_it_back(tmp_path: Path) -> None:
    lab = Role()
    strike(lab, tmp_path, [at("lost-confirm", 0.0)])
    assert lab.asked == ["answers lost: True", "network healed"]


@pytest.mark.parametrize(
    ("fault", "why"), [("reset", "no connection to the broker was open"), ("memory-alarm", "kafka has no memory alarm")]
)
def test_what_cannot_be_done_is_missed_with_the_reason(tmp_path: Path, fault: str, why: str) -> None:
    lab = Role()
    injector = strike(lab, tmp_path, [at(fault, 0.0)])
    assert injector.struck[0].missed == why
    assert injector.struck[0].fired_at_s is None


def test_an_error_in_a_fault_is_handed_to_the_run(tmp_path: Path) -> None:
    injector = strike(Role(), tmp_path, [at("relay-pause", 0.0)])
    assert isinstance(injector.failure, AttributeError)


def test_every_fault_says_what_it_does() -> None:
    assert all(len(fault.sentence) > 20 for fault in FAULTS.values())


@pytest.mark.parametrize("text", ["confirmd", "confirmed@noon", ""])
def test_a_wrong_crash_point_is_refused_with_the_steps_there_are(text: str) -> None:
    with pytest.raises(ValueError, match="use STEP or STEP@EPOCH_S"):
        parse_crash_point(text)


def test_a_broker_that_is_not_ours_is_not_called_restarted(tmp_path: Path) -> None:
    theirs = External("kafka", tmp_path, "127.0.0.1:9", lambda url, timeout_s: None)
    lab: Any = SimpleNamespace(broker_server=theirs)
    with pytest.raises(NotControlled, match="cannot stop kafka as it runs here"):
        FAULTS["restart"].inject(lab)
    with pytest.raises(NotControlled, match="cannot stop kafka as it runs here"):
        inject("restart", theirs, None)
