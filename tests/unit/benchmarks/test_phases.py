"""However a run ends, its folder says so."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from analysis.verdict import compute_verdict
from benchmarks.phases import RunBroken, System, run_experiment
from benchmarks.scenario import load_scenario
from history.recorder import Recorder


class Failing:
    """A system whose driver does not start and whose database does not come back."""

    def __init__(self, folder: Path) -> None:
        self.history = folder / "history"

    def start(self) -> None: ...

    def start_driver(self, plan: Mapping[str, Any]) -> None:
        raise RunBroken("no driver")

    def stop_roles(self) -> None: ...

    def export_ledger(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "events.ndjson").touch()
        raise RunBroken("no database")

    def describe(self) -> dict[str, Any]:
        return {"machine": {}}

    def history_files(self) -> list[str]:
        return [path.name for path in self.history.glob("*")]


def test_a_run_whose_books_cannot_be_kept_is_unknown_and_not_without_a_word(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history", "parent")
    system = cast(System, Failing(tmp_path))
    with pytest.raises(RunBroken, match="no database"):
        run_experiment(load_scenario("steady"), "kafka", 1, system, recorder, tmp_path, 1.0, lambda moment: None)
    assert json.loads((tmp_path / "run.json").read_text())["drain"] == {"complete": False, "waited_s": 0.0}
    assert compute_verdict(tmp_path).word == "unknown"
