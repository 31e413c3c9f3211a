"""The ladder on real brokers: one load, the same faults at each step, and the page that sets the steps side by side.

In `make test-long`: it takes minutes, and it has not passed whole yet, so it shows no row.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.ladder import STEPS, Step, lessons, rungs
from analysis.rendering.report import read_results

SHORT = ("load.warm_up_s=2", "load.duration_s=18")


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "testbed.cli", *words], capture_output=True, text=True, timeout=400)


def run(step: Step, broker: str, folder: Path) -> str:
    """All that was printed."""
    sets = [part for word in (*SHORT, *step.sets) for part in ("--set", word)]
    done = cli("run", "ladder", "--broker", broker, "--seed", "11", "--out", str(folder), *sets)
    said = f"{step.name}\n{done.stdout}{done.stderr}"
    assert json.loads((folder / "verdict.json").read_text())["verdict"] != "unknown", said
    return said


@pytest.mark.long
@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_each_step_of_the_ladder_ends_a_harm_or_keeps_both_away_and_the_page_draws_the_lessons_from_it(
    broker: str, steps: int, tmp_path: Path
) -> None:
    said = "".join(run(step, broker, tmp_path / step.name) for step in STEPS[:steps])
    folders = [tmp_path / step.name for step in STEPS[:steps]]
    found = rungs(read_results(folders))
    harms = {rung.step.name: (rung.lost > 0, rung.duplicated > 0) for rung in found}
    expected = {"direct": (True, True), "outbox": (False, True)}
    assert harms == {step.name: expected.get(step.name, (False, False)) for step in STEPS[:steps]}, said
    assert all(rung.applied_per_s and rung.busiest_per_s and rung.p99_ms for rung in found), found
    words = {lesson.text: lesson.word for lesson in lessons(found) if lesson.broker == broker}
    assert words["The transaction's boundary decides"] == "supported"
    if steps == len(STEPS):
        assert words["Guarantee before speed"] == "supported", found
        assert "not measured yet" not in words.values()
    else:
        assert words["Improve step by step"] == "not measured yet"

    page = tmp_path / "report.html"
    told = cli("report", *map(str, folders), "--out", str(page))
    assert told.returncode == 0, told.stdout + told.stderr
    ladder = page.with_suffix(".md").read_text().partition("## The ladder, step by step")[2].partition("\n## ")[0]
    assert all(f"| {step.name} | {step.row} | {broker} | 1 | " in ladder for step in STEPS[:steps]), ladder
    assert f"- *The transaction's boundary decides*, on {broker}: **supported** (direct, outbox" in ladder
