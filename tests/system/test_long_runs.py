"""What takes hours: many random schedules and a soak, on each broker; each failing seed is told and its folder kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from history.reader import read_lines

BROKERS = ("kafka", "rabbitmq")
SEEDS = range(1, 51)
KEPT = Path("reports/long")


def run(folder: Path, scenario: str, broker: str, seed: int, *sets: str, timeout_s: float) -> tuple[int, str]:
    """Exit code, and the verdict with its reasons."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [word for text in sets for word in ("--set", text)]
    command = ["run", scenario, "--broker", broker, "--seed", str(seed), "--out", str(folder), *words]
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli", *command], capture_output=True, text=True, timeout=timeout_s
    )
    path = folder / "verdict.json"
    told = json.loads(path.read_text()) if path.exists() else {"verdict": "none", "reasons": [done.stderr[-500:]]}
    return done.returncode, f"seed {seed} on {broker}: {told['verdict']} {'; '.join(told['reasons'])}; see {folder}"


def forget_details(folder: Path) -> None:
    """Of a kept promise the verdict is enough; what failed is kept whole."""
    for large in ("history", "ledger", "logs"):
        shutil.rmtree(folder / large)


def resident_bytes(folder: Path, part: str, from_s: float, to_s: float) -> float:
    """The median between two instants of a run; a busy machine samples less than each second."""
    [parent] = (folder / "history").glob("parent-*.ndjson")
    samples = [line for line in read_lines(parent) if line["step"] == "sample" and line["part"] == part]
    began_ns = min(line["t_ns"] for line in samples)
    return median(line["rss_bytes"] for line in samples if from_s <= (line["t_ns"] - began_ns) / 1e9 < to_s)


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.row("S1.35")
def test_half_an_hour_of_load_with_a_fault_each_half_minute_breaks_no_promise(broker: str) -> None:
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
    sets = ("faults=random:3", "load.rate_per_s=30", "load.duration_s=30")
    code, said = run(folder, "steady", broker, seed, *sets, timeout_s=900)
    assert code == 0, said
    forget_details(folder)
