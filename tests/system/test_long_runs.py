"""What takes hours: many random schedules and a soak, on each broker; each failing seed is told and its folder kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.matrix import LAST, able, shortened
from benchmarks.scenario import load_scenario, names
from history.reader import read_lines
from testbed.experiments import prepare

BROKERS = ("kafka", "rabbitmq")
SEEDS = range(1, 51)
SCHEDULE = ("faults=random:3", "load.rate_per_s=30", "load.duration_s=45")
KEPT = Path("reports/long")


def run(folder: Path, scenario: str, broker: str, seed: int, *sets: str, timeout_s: float) -> tuple[int, str]:
    """Exit code, and the verdict with its reasons."""
    shutil.rmtree(folder, ignore_errors=True)
    changed = [word for text in sets for word in ("--set", text)]
    words = ["run", scenario, "--broker", broker, "--seed", str(seed), "--out", str(folder), *changed]
    command = [sys.executable, "-m", "testbed.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except KeyboardInterrupt:  # it has felt Ctrl-C too, and stops what it started
        process.communicate()
        raise
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    path = folder / "verdict.json"
    told = json.loads(path.read_text()) if path.exists() else {"verdict": "none", "reasons": [errors[-500:]]}
    return process.returncode, f"seed {seed} on {broker}: {told['verdict']} {'; '.join(told['reasons'])}; see {folder}"


def forget_details(folder: Path) -> None:
    """Of a kept promise the verdict is enough; what failed is kept whole."""
    for large in ("history", "ledger", "logs"):  # a load straight at the broker has no ledger
        shutil.rmtree(folder / large, ignore_errors=True)


def resident_bytes(folder: Path, part: str, from_s: float, to_s: float) -> float:
    """The median between two instants of a run; a busy machine samples less than each second."""
    [parent] = (folder / "history").glob("parent-*.ndjson")
    samples = [line for line in read_lines(parent) if line["step"] == "sample" and line["part"] == part]
    began_ns = min(line["t_ns"] for line in samples)
    return median(line["rss_bytes"] for line in samples if from_s <= (line["t_ns"] - began_ns) / 1e9 < to_s)


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.row("S1.35")
def test_half_an_hour_of_load_with_a_fault_each_minute_breaks_no_promise(broker: str) -> None:
    folder = KEPT / f"soak-{broker}"
    code, said = run(folder, "soak", broker, 1, timeout_s=3_600)
    assert code == 0, said
    forget_details(folder)


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
def test_relay_and_consumer_hold_as_much_memory_after_five_minutes_as_after_two(broker: str) -> None:
    folder = KEPT / f"memory-{broker}"
    sets = ("load.rate_per_s=500", "load.duration_s=300")
    code, said = run(folder, "outbox-steady", broker, 1, *sets, timeout_s=900)
    assert code == 0, said
    for part in ("relay", "consumer"):
        after_two, at_the_end = (resident_bytes(folder, part, from_s, from_s + 30) for from_s in (120, 270))
        assert at_the_end < 1.05 * after_two, (part, after_two, at_the_end, str(folder))
    forget_details(folder)


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_schedule_breaks_no_promise(broker: str, seed: int) -> None:
    folder = KEPT / f"random-{broker}-{seed}"
    code, said = run(folder, "steady", broker, seed, *SCHEDULE, timeout_s=900)
    assert code == 0, said
    forget_details(folder)


def scenarios() -> list[Any]:
    """Every one that its broker is able to, but the soak, which is a test of its own."""
    return [
        pytest.param(name, broker, id=f"{name}-{broker}")
        for name in names()
        if name not in LAST
        for broker in able(load_scenario(name))
    ]


@pytest.mark.long
@pytest.mark.parametrize(("scenario", "broker"), scenarios())
def test_a_scenario_breaks_no_promise(scenario: str, broker: str) -> None:
    folder = KEPT / f"scenario-{broker}-{scenario}"
    code, said = run(folder, scenario, broker, 1, *shortened(load_scenario(scenario)), timeout_s=900)
    assert code == 0, said
    forget_details(folder)


@pytest.mark.parametrize("broker", BROKERS)
def test_every_long_run_can_be_planned(broker: str) -> None:
    for seed in SEEDS:
        assert len(prepare("steady", broker, seed, list(SCHEDULE))[0].faults) == 3
    for name in names():
        if broker in able(load_scenario(name)):
            prepare(name, broker, 1, list(shortened(load_scenario(name))))
