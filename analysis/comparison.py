"""`compare.json`: what a comparison set out to run, what it ran and what its budget left out; and whether a cell held.

A cell holds if what it measured is what its contract says or, for a naive variant, what is predicted of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from analysis.checkers.verdict import write_json
from history.reader import BrokenHistory

FILE = "compare.json"
State = Literal["held", "broke", "could not tell", "left out", "not run"]
EXIT_CODES: dict[State, int] = {"held": 0, "broke": 1, "could not tell": 2, "left out": 0, "not run": 2}


class CellNote(BaseModel):
    """One cell of the matrix as it stands."""

    model_config = ConfigDict(frozen=True)
    part: str
    name: str
    broker: str
    repeat: int
    folder: str
    """Relative to the comparison's."""
    state: State = "not run"
    why: str = ""
    shows: tuple[str, ...] = ()
    allows: tuple[str, ...] = ()
    overload: bool = False

    @property
    def was_run(self) -> bool:
        return self.state not in ("left out", "not run")


class Comparison(BaseModel):
    """The whole matrix."""

    model_config = ConfigDict(frozen=True)
    format: Literal[1] = 1
    kind: Literal["quick", "full"]
    seed: int
    scenarios: tuple[str, ...] = ()
    """What it was limited to; empty: to nothing."""
    sets: tuple[str, ...] = ()
    """What was set in every cell."""
    budget_s: float | None = None
    spent_s: float = 0.0
    interrupted: bool = False
    sustainable_per_s: dict[str, float | None] = {}
    """Broker -> the highest rate that kept its schedule in a short probe; None: none did."""
    cells: tuple[CellNote, ...] = ()

    @property
    def left_out(self) -> list[CellNote]:
        return [cell for cell in self.cells if not cell.was_run]

    @property
    def exit_code(self) -> int:
        """1 if any cell broke what it promised, else 2 if one could not tell or never ran, else 0."""
        codes = [EXIT_CODES[cell.state] for cell in self.cells]
        if not any(cell.state in ("held", "broke") for cell in self.cells):
            return 2
        return 1 if 1 in codes else max(codes)


def judge_cell(
    verdict: Mapping[str, Any], shows: tuple[str, ...], allows: tuple[str, ...], overloaded: bool
) -> tuple[State, str]:
    """Whether a run showed what it was run for, and if not, why.

    `overloaded`: it was run to be, and could not be drained in its time.
    """
    word, counts = verdict["verdict"], verdict["counts"]
    if word == "unknown":
        return ("held", "") if overloaded else ("could not tell", "; ".join(verdict["reasons"]))
    forbidden = {anomaly["name"] for anomaly in verdict["anomalies"] if anomaly["forbidden"]}
    broken = {name for name, found in verdict["invariants"].items() if found["passed"] is False}
    predicted = forbidden & {*shows, *allows}
    # Books of a shop that lost or repeated something do not balance: that follows from what was predicted. Order alone
    # moves no money.
    unexpected = forbidden - predicted | (set() if predicted - {"out_of_order"} else broken)
    if word == "invalid" and (unexpected or not predicted):
        return "broke", "; ".join(verdict["reasons"])
    absent = [name for name in shows if not counts.get(name)]
    if absent:
        return "could not tell", f"predicted {', '.join(absent)} did not show"
    return "held", ""


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Whole or not at all."""
    write_json(folder / FILE, comparison.model_dump(mode="json"))


def read_comparison(folder: Path) -> Comparison | None:
    """None where the folder holds no comparison. Raises BrokenHistory where the file is wrong."""
    try:
        return Comparison.model_validate(orjson.loads((folder / FILE).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise BrokenHistory(f"{FILE} of {folder.name} is wrong: {error}") from error


def run_folders(folder: Path, comparison: Comparison) -> list[Path]:
    """Folders of its cells that hold a run of this comparison, in the order of the matrix.

    Where a cell was not reached, what lies there is of an earlier one.
    """
    found = [folder / cell.folder for cell in comparison.cells if cell.was_run]
    return [each for each in found if (each / "run.json").is_file()]
