"""What takes hours: many random schedules and a soak, on each broker; each failing seed is told and its folder kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    if done.returncode == 0:
        # Of a kept promise the verdict is enough; what failed is kept whole.
        for large in ("history", "ledger", "logs"):
            shutil.rmtree(folder / large)
    return done.returncode, f"seed {seed} on {broker}: {told['verdict']} {'; '.join(told['reasons'])}; see {folder}"


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.row("S1.35")
def test_half_an_hour_of_load_with_a_fault_each_half_minute_breaks_no_promise(broker: str) -> None:
    code, said = run(KEPT / f"soak-{broker}", "soak", broker, 1, timeout_s=3_600)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_schedule_breaks_no_promise(broker: str, seed: int) -> None:
    folder = KEPT / f"random-{broker}-{seed}"
    sets = ("faults=random:3", "load.rate_per_s=30", "load.duration_s=45")
    code, said = run(folder, "steady", broker, seed, *sets, timeout_s=900)
    assert code == 0, said
