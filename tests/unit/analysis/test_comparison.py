"""Whether a cell showed what it was run for, and whether a comparison is worse than an earlier one."""

from pathlib import Path
from typing import Any

import pytest

from analysis.against import Against, against
from analysis.comparison import CellNote, Comparison, judge_cell, read_comparison, run_folders, write_comparison
from analysis.findings import Result
from history.reader import BrokenHistory
from tests.unit.analysis.test_findings import result


def verdict(word: str, broken_books: bool = False, **counts: int) -> dict[str, Any]:
    return {
        "verdict": word,
        "reasons": [f"{name} = {count}" for name, count in counts.items()] or ["the drain was cut short"],
        "counts": counts,
        "anomalies": [{"name": name, "count": count, "forbidden": True} for name, count in counts.items()],
        "invariants": {"stock_conserved": {"passed": not broken_books, "detail": ""}},
    }


@pytest.mark.parametrize(
    ("found", "shows", "allows", "overloaded", "state"),
    [
        (verdict("valid"), (), (), False, "held"),
        (verdict("invalid", lost=3), (), (), False, "broke"),
        (verdict("invalid", broken_books=True), (), (), False, "broke"),
        (verdict("unknown"), (), (), False, "could not tell"),
        (verdict("unknown"), (), (), True, "held"),
        (verdict("invalid", lost=3), (), (), True, "broke"),
        (verdict("invalid", lost=3), ("lost",), (), False, "held"),
        (verdict("invalid", lost=3, broken_books=True), ("lost",), (), False, "held"),
        (verdict("valid"), ("lost",), (), False, "could not tell"),
        (verdict("invalid", lost=3, phantom=1), ("lost",), (), False, "broke"),
        (verdict("invalid", lost=3, phantom=1), ("lost",), ("phantom",), False, "held"),
        (verdict("valid"), (), ("lost",), False, "held"),
        (verdict("invalid", phantom=5), ("lost",), (), False, "broke"),
        (verdict("invalid", out_of_order=5), ("lost",), ("out_of_order",), False, "could not tell"),
        (verdict("invalid", broken_books=True, out_of_order=5), (), ("out_of_order",), False, "broke"),
    ],
)
def test_a_cell_holds_when_it_measured_what_its_contract_or_its_prediction_says(
    found: dict[str, Any], shows: tuple[str, ...], allows: tuple[str, ...], overloaded: bool, state: str
) -> None:
    assert judge_cell(found, shows, allows, overloaded)[0] == state


def test_what_lies_in_the_folder_of_a_cell_that_was_not_reached_is_no_run_of_this_comparison(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").touch()
    found = run_folders(tmp_path, comparison("held", "left out", "not run", "could not tell"))
    assert [folder.name for folder in found] == ["0", "3"]


def comparison(*states: Any) -> Comparison:
    cells = [CellNote(part="p", name="n", broker="kafka", repeat=n, folder=str(n), state=state)
             for n, state in enumerate(states)]  # fmt: skip
    return Comparison(kind="full", seed=1, cells=tuple(cells))


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["held", "held"], 0),
        (["held", "left out"], 0),
        (["held", "could not tell", "broke"], 1),
        (["held", "could not tell"], 2),
        (["held", "not run"], 2),
        (["left out"], 2),
        ([], 2),
    ],
)
def test_a_broken_promise_outweighs_doubt_and_doubt_outweighs_the_rest(states: list[str], code: int) -> None:
    assert comparison(*states).exit_code == code


def test_a_comparison_is_read_as_it_was_written_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    assert read_comparison(tmp_path) is None
    write_comparison(tmp_path, comparison("held", "left out"))
    assert read_comparison(tmp_path) == comparison("held", "left out")
    (tmp_path / "compare.json").write_text('{"format": 1, "kind": "odd", "seed": 1}')
    with pytest.raises(BrokenHistory, match=r"compare\.json"):
        read_comparison(tmp_path)


def repeats(p50_ms: float, recovery_s: float | None = 2.0, number: int = 3, **more: Any) -> list[Result]:
    """Of one case on Kafka, hardly spread."""
    return [
        result(
            "kafka", recovery_s and recovery_s * (1 + n / 100),
            latency_ms={"commit_to_apply": {"p50": p50_ms * (1 + n / 100), "count": 5000}}, **more,
        )
        for n in range(number)
    ]  # fmt: skip


def changes(found: Against) -> dict[str, str]:
    return {change.what: str(change).rpartition(": ")[2] for change in found.changes}


def test_a_figure_whose_whole_interval_is_beyond_the_margin_is_a_regression() -> None:
    found = against(repeats(10), repeats(13))
    assert changes(found) == {"commit to apply p50, ms": "worse", "recovery from sigkill, s": "no change shown"}
    assert found.exit_code == 1
    assert changes(against(repeats(13), repeats(10)))["commit to apply p50, ms"] == "better"
    assert against(repeats(13), repeats(10)).exit_code == 0


def test_a_change_within_a_tenth_is_no_regression() -> None:
    assert against(repeats(10), repeats(10.8)).exit_code == 0


def test_repeats_that_overlap_show_no_change() -> None:
    wide = [run for p50 in (8, 12, 16) for run in repeats(p50, number=1)]
    assert changes(against(repeats(10), wide))["commit to apply p50, ms"] == "no change shown"


def test_a_promise_kept_before_and_broken_now_is_a_regression_even_without_figures() -> None:
    found = against(repeats(10, number=1), repeats(10, number=1, verdict="invalid", reasons=["lost = 2"]))
    assert found.broken == ["steady on kafka: valid before, now lost = 2"]
    assert found.exit_code == 1


def test_a_run_that_could_not_be_judged_before_hides_no_promise_that_is_broken_now() -> None:
    before = [*repeats(10, number=2), *repeats(10, number=1, verdict="unknown")]
    found = against(before, repeats(10, number=1, verdict="invalid", reasons=["lost = 2"]))
    assert found.broken == ["steady on kafka: valid before, now lost = 2"]
    never_kept = against(repeats(10, verdict="invalid"), repeats(10, verdict="invalid"))
    assert never_kept.broken == []


def test_a_load_that_was_met_before_and_is_not_now_is_a_regression_although_no_figure_is_left() -> None:
    found = against(repeats(10), repeats(8_000, saturated="relay"))
    assert found.broken == ["steady on kafka: the load was met before; now the limit is the relay"]
    assert found.exit_code == 1
    once = [*repeats(10, number=2), *repeats(8_000, number=1, saturated="relay")]
    assert against(repeats(10), once).broken == []


def test_a_recovery_that_no_longer_comes_is_a_regression() -> None:
    found = against(repeats(10), repeats(10, recovery_s=None))
    assert found.broken == ["steady on kafka: recovered from sigkill before, now it never does"]


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (repeats(30, number=2), "2 runs that bear a conclusion"),
        (repeats(30, verdict="unknown"), "0 runs that bear a conclusion"),
        (repeats(30, run={"contract": ["lost"]}), "another contract"),
        (repeats(30, run={"machine": {"cpus": 8, "memory_bytes": 8 * 2**30}}), "another machine"),
        (repeats(30, run={"schedule": {"rate_per_s": 99.0, "load_s": 2.0}}), "another load"),
        (repeats(30, run={"sets": ["durability=fsynced"]}), "only in the"),
    ],
)
def test_what_cannot_be_compared_is_named_and_alone_gives_no_comfort(now: list[Result], reason: str) -> None:
    found = against(repeats(10), now)
    assert reason in found.not_compared[0]
    assert found.exit_code == 2


def test_a_machine_that_was_slower_itself_is_not_a_regression_of_the_system() -> None:
    fast, slow = ({"cpus": 2, "memory_bytes": 1, "work_per_s": speed} for speed in (100.0, 80.0))
    found = against(repeats(10, run={"machine": fast}), repeats(13, run={"machine": slow}))
    assert "not as fast as before" in found.not_compared[0]
    assert found.exit_code == 2
