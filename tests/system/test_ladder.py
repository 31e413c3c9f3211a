"""The ladder on real brokers: one load, the same faults at each step, and the page that sets the steps side by side.

In every test run the three steps that end a harm, under a third of the load; all five as it is, in `make test-long`.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis.ladder import SCENARIO, STEPS, Rung, Step, Word, lessons, rungs
from analysis.rendering.report import read_results

LIGHTER = Path(__file__).with_name("ladder.toml")


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "testbed.cli", *words], capture_output=True, text=True, timeout=600)


def run(scenario: str, step: Step, broker: str, folder: Path) -> str:
    """All that was printed."""
    sets = [part for word in step.sets for part in ("--set", word)]
    done = cli("run", scenario, "--broker", broker, "--out", str(folder), *sets)
    said = f"{step.name}\n{done.stdout}{done.stderr}"
    assert json.loads((folder / "verdict.json").read_text())["verdict"] != "unknown", said
    return said


def climb(scenario: str, broker: str, folder: Path, steps: Sequence[Step]) -> tuple[list[Rung], dict[str, Word]]:
    """Each step's run, and the word on each lesson; the page has both."""
    folders = [folder / step.name for step in steps]
    said = "".join(run(scenario, step, broker, each) for step, each in zip(steps, folders, strict=True))
    found = rungs(read_results(folders))
    harms = {rung.step.name: (rung.lost > 0, rung.duplicated > 0) for rung in found}
    expected = {"direct": (True, True), "outbox": (False, True)}
    assert harms == {step.name: expected.get(step.name, (False, False)) for step in steps}, said
    # The step whose machine was as fast as the median is told with its speed, however busy the others found it.
    assert any(rung.applied_per_s and rung.busiest_per_s for rung in found), found

    page = folder / "report.html"
    told = cli("report", *map(str, folders), "--out", str(page))
    assert told.returncode == 0, told.stdout + told.stderr
    ladder = page.with_suffix(".md").read_text().partition("## The ladder, step by step")[2].partition("\n## ")[0]
    assert all(f"| {step.name} | {step.row} | {broker} | 1 | " in ladder for step in steps), ladder
    assert f"- *The transaction's boundary decides*, on {broker}: **supported** (direct, outbox" in ladder
    return found, {lesson.text: lesson.word for lesson in lessons(found) if lesson.broker == broker}


@pytest.mark.row("S1.36")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_the_outbox_ends_the_loss_and_the_inbox_the_doubles_and_the_page_says_which_lesson_that_supports(
    broker: str, tmp_path: Path
) -> None:
    _, words = climb(str(LIGHTER), broker, tmp_path, STEPS[:3])
    assert words["The transaction's boundary decides"] == "supported"
    assert words["Improve step by step"] == "not measured yet"


@pytest.mark.long
@pytest.mark.row("S1.36")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_all_five_steps_of_the_ladder_bear_out_what_is_said_of_it(broker: str, tmp_path: Path) -> None:
    found, words = climb(SCENARIO, broker, tmp_path, STEPS)
    assert words["The transaction's boundary decides"] == "supported"
    assert "not measured yet" not in words.values()
    if all(rung.applied_per_s and rung.busiest_per_s and rung.p99_ms for rung in found):
        assert words["Guarantee before speed"] == "supported", found
    else:
        # On a machine that other work slowed meanwhile nothing is said of speed.
        assert words["Improve step by step"] == "undecided", found
