"""How a comparison goes on: what it runs, keeps, redoes and leaves out. Runs are stood in for by files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from analysis.comparison import Comparison, read_comparison
from analysis.verdict import Verdict
from benchmarks.scenario import Scenario
from testbed import comparing, wiring
from testbed.cli import application
from testbed.comparing import seconds
from testbed.settings import SettingError, Settings
from tests.histories.comparing import one

Judge = Callable[[Scenario, Settings], str]


class World:
    """Stands in for real runs: writes a run's folder with the verdict that `judge` says."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.ran: list[str] = []
        self.interrupt_at = 10**9
        self.now_s = 0.0

    def run_once(
        self, scenario: Scenario, settings: Settings, folder: Path, provider: str, board: Any, sets: Sequence[str]
    ) -> Verdict:
        if len(self.ran) == self.interrupt_at:
            raise KeyboardInterrupt
        made = one(settings.broker, scenario.name, seed=settings.seed)
        word = self.judge(scenario, settings)
        made.run |= {
            "sets": list(sets), "plan": json.loads(scenario.model_dump_json()),
            "settings": json.loads(json.dumps(wiring.effective_settings(settings), default=str)),
            "git_revision": comparing.git_revision(),
        }  # fmt: skip
        made.verdict |= {
            "verdict": word if word in ("invalid", "unknown") else "valid", "reasons": ["planted"] * (word != "none"),
            "saturated": "none" if word != "slow" else "relay",
        }  # fmt: skip
        self.now_s += scenario.load.warm_up_s + scenario.load.duration_s + 20
        folder.mkdir(parents=True)
        for name, value in (("run", made.run), ("verdict", made.verdict)):
            (folder / f"{name}.json").write_text(json.dumps(value))
        self.ran.append(f"{settings.broker}/{folder.parent.name}/{folder.name}")

        class Told:
            fields = made.verdict
            word = str(made.verdict["verdict"])

        return Told()  # type: ignore[return-value]


def compare(world: World, out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Comparison, str]:
    monkeypatch.setattr(comparing, "run_once", world.run_once)
    monkeypatch.setattr(comparing, "time", SimpleNamespace(monotonic=lambda: world.now_s))
    done = CliRunner().invoke(application(["compare"]), ["compare", "--out", str(out), *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    found = read_comparison(out)
    assert found is not None, done.output
    return done.exit_code, found, done.output


def run_again(out: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What a second comparison in the same folder does not keep."""
    world = World(lambda scenario, settings: "none")
    compare(world, out, monkeypatch, *words)
    return world.ran


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds and are tested elsewhere."""
    monkeypatch.setattr(
        "analysis.rendering.report._section",
        lambda case, runs: {
            "case": case,
            "id": case,
            "in_contents": False,
            "question": "",
            "runs": runs,
            "pictured": [],
            "charts": [],
        },
    )
    monkeypatch.setattr("analysis.rendering.report._overall", lambda *_: [])


def keeps(rate_per_s: float) -> Judge:
    """A system that keeps that rate."""
    return lambda scenario, settings: "none" if scenario.load.rate_per_s <= rate_per_s else "slow"


ONLY = ("--full", "--scenarios", "steady")


def test_a_finished_cell_is_not_run_again_and_a_half_one_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(lambda scenario, settings: "none")
    code, found, _ = compare(world, tmp_path, monkeypatch)
    assert code == 0
    assert world.ran == ["kafka/kill-mid-publish/1", "rabbitmq/kill-mid-publish/1"]
    (tmp_path / "rabbitmq/kill-mid-publish/1/verdict.json").unlink()
    again = World(lambda scenario, settings: "none")
    code, found, _ = compare(again, tmp_path, monkeypatch)
    assert (code, again.ran) == (0, ["rabbitmq/kill-mid-publish/1"])
    assert [cell.state for cell in found.cells] == ["held", "held"]
    assert (tmp_path / "report.html").exists()


def test_a_cell_that_other_code_ran_is_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(World(lambda scenario, settings: "none"), tmp_path, monkeypatch)
    monkeypatch.setattr(comparing, "git_revision", lambda: "newer")
    assert len(run_again(tmp_path, monkeypatch)) == 2


def test_a_run_of_an_earlier_comparison_is_not_reported_as_one_that_the_budget_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--full", "--scenarios", "lost-confirm")
    compare(World(keeps(300)), tmp_path, monkeypatch, *words)
    _, found, _ = compare(World(keeps(300)), tmp_path, monkeypatch, *words, "--seed", "9", "--budget", "200s")
    assert len(found.left_out) == 8
    runs = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert [run["seed"] for run in runs] == [9, 9]


def test_of_a_pair_that_the_budget_does_not_reach_what_was_run_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--full", "--scenarios", "lost-confirm")
    compare(World(keeps(300)), tmp_path, monkeypatch, *words)
    (tmp_path / "kafka/lost-confirm/5/verdict.json").unlink()
    _, found, _ = compare(World(keeps(300)), tmp_path, monkeypatch, *words, "--budget", "1s")
    assert {f"{cell.broker}/{cell.repeat}": cell.state for cell in found.cells}["rabbitmq/5"] == "held"
    assert [f"{cell.broker}/{cell.repeat}" for cell in found.left_out] == ["kafka/5"]


def test_a_search_for_the_rate_that_the_budget_cut_short_has_found_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found, _ = compare(World(keeps(300)), tmp_path, monkeypatch, *ONLY, "--budget", "500s")
    assert any(cell.part == "probe" and cell.state == "held" for cell in found.cells)
    assert found.sustainable_per_s == {}


def test_a_cell_of_the_sweep_is_none_of_the_probes_that_are_free_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found, _ = compare(World(keeps(110)), tmp_path, monkeypatch, *ONLY)
    assert found.sustainable_per_s == {"kafka": 100, "rabbitmq": 100}
    places = [cell.folder for cell in found.cells]
    assert len(places) == len(set(places))
    sweep = {cell.name for cell in found.cells if cell.part == "rate sweep" and not cell.overload}
    probed = {cell.name for cell in found.cells if cell.part == "probe"}
    assert "steady+load.rate_per_s=50" in sweep
    assert probed
    assert not sweep & probed


@pytest.mark.parametrize("words", [("--seed", "2"), ("--set", "durability=fsynced"), ("--set", "load.rate_per_s=9")])
def test_a_cell_that_was_run_otherwise_is_run_anew(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(World(lambda scenario, settings: "none"), tmp_path, monkeypatch)
    assert len(run_again(tmp_path, monkeypatch, *words)) == 2


def test_the_report_names_the_line_that_repeats_a_limited_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--full", "--scenarios", "spike,poison", "--budget", "1h", "--set", "durability=fsynced")
    compare(World(lambda scenario, settings: "none"), tmp_path, monkeypatch, *words)
    line = "testbed compare --full --budget 3600s --scenarios spike,poison --seed 1 --set durability=fsynced"
    assert f"`{line}`, or run by run" in (tmp_path / "report.md").read_text()


def test_a_setting_of_the_environment_that_differs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(World(lambda scenario, settings: "none"), tmp_path, monkeypatch)
    monkeypatch.setenv("DURABILITY", "fsynced")
    assert len(run_again(tmp_path, monkeypatch)) == 2


def test_the_sweep_follows_the_lower_of_the_rates_that_both_sustain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(scenario: Scenario, settings: Settings) -> str:
        return keeps(440 if settings.broker == "kafka" else 230)(scenario, settings)

    _, found, _ = compare(World(judge), tmp_path, monkeypatch, *ONLY)
    assert found.sustainable_per_s["rabbitmq"] == 200
    assert 360 < (found.sustainable_per_s["kafka"] or 0) <= 440
    sweep = [cell.name for cell in found.cells if cell.part == "rate sweep" and cell.broker == "kafka"]
    assert sweep[0] == "steady+load.rate_per_s=2"
    assert sweep[-1] == "steady+load.rate_per_s=210"


def test_what_the_budget_does_not_reach_is_named_and_costs_no_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, _ = compare(World(keeps(300)), tmp_path, monkeypatch, *ONLY, "--budget", "100s")
    assert [cell.name for cell in found.cells if cell.state == "held" and cell.part == "headline"] == ["steady"] * 2
    assert len(found.left_out) > 10
    assert {cell.state for cell in found.cells} == {"held", "left out"}
    assert code == 0
    assert "the budget did not reach it" in (tmp_path / "report.md").read_text()
    assert "rate sweep (no sustainable rate was found on both brokers)" in (tmp_path / "report.md").read_text()


def test_a_cell_that_does_not_go_with_what_was_set_is_left_out_and_a_wrong_word_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("--set", "load.duration_s=5")
    _, found, _ = compare(World(keeps(300)), tmp_path / "a", monkeypatch, *ONLY, *short)
    left = {cell.name.partition("+faults=")[2] or cell.name: cell.why for cell in found.left_out}
    assert left.keys() == {"api-crash-before-commit@8"}
    assert all("ends after the load" in why for why in left.values())
    world = World(keeps(300))
    with pytest.raises(AssertionError, match="no such setting"):
        compare(world, tmp_path / "b", monkeypatch, *ONLY, "--set", "colour=red")
    assert world.ran == []


def test_ctrl_c_leaves_a_report_of_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(keeps(300))
    world.interrupt_at = 3
    code, found, _ = compare(world, tmp_path, monkeypatch, *ONLY)
    assert code == 2
    assert found.interrupted
    assert len([cell for cell in found.cells if cell.state == "held"]) == 3
    assert "it was stopped by hand" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("word", "code"), [("invalid", 1), ("unknown", 2), ("none", 0)])
def test_the_exit_code_is_that_of_the_worst_cell(
    word: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(lambda scenario, settings: word if settings.broker == "rabbitmq" else "none")
    assert compare(world, tmp_path, monkeypatch)[0] == code


def test_against_an_earlier_comparison_a_slower_one_fails_and_one_run_each_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, doubtful = tmp_path / "old", tmp_path / "new", tmp_path / "doubtful"
    words = ("--full", "--scenarios", "lost-confirm")
    compare(World(keeps(300)), old, monkeypatch, *words)
    compare(World(keeps(300)), new, monkeypatch, *words)
    code, _, said = compare(World(keeps(300)), new, monkeypatch, *words, "--against", str(old))
    assert code == 0, said
    half = World(lambda scenario, settings: "unknown" if settings.broker == "rabbitmq" else "none")
    code, _, said = compare(half, doubtful, monkeypatch, *words, "--against", str(old))
    assert code == 2, said
    for path in new.glob("kafka/lost-confirm/*/verdict.json"):
        verdict = json.loads(path.read_text())
        verdict["latency_ms"]["commit_to_apply"]["p50"] *= 2
        path.write_text(json.dumps(verdict))
    code, _, said = compare(World(keeps(300)), new, monkeypatch, *words, "--against", str(old))
    assert code == 1
    assert "lost-confirm on kafka: commit to apply p50, ms" in said.replace("\n", " ")
    few, fewer = tmp_path / "few", tmp_path / "fewer"
    compare(World(keeps(300)), few, monkeypatch)
    assert compare(World(keeps(300)), fewer, monkeypatch, "--against", str(few))[0] == 2


@pytest.mark.parametrize(("text", "found"), [("90m", 5400), ("1.5h", 5400), ("300s", 300), ("300", 300)])
def test_a_budget_is_a_time(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "m", "-3m", "nan", "inf", "ninety"])
def test_a_wrong_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingError, match="90m"):
        seconds(text)


@pytest.mark.parametrize("words", [("--quick", "--full"), ("--budget", "3m"), ("--scenarios", "steady")])
def test_words_that_contradict_each_other_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    done = CliRunner().invoke(application(["compare"]), ["compare", "--out", str(tmp_path), *words])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())
