"""What is kept of `make test-long` tells every test that did not pass, and sums what the runs' checkers counted."""

import json
import platform
import shutil
from pathlib import Path

import psutil
import pytest

from scripts import long_tests
from scripts.long_tests import SUMMED, keep

JUNIT = """<testsuites><testsuite name="abc123" timestamp="2026-01-02T03:04:05.6" time="120.0">
<testcase classname="tests.long" name="test_a_schedule[1-kafka]" time="61.0"/>
<testcase classname="tests.long" name="test_a_schedule[2-kafka]" time="59.0">
<failure message="AssertionError: seed 2 on kafka: invalid&#10;assert 1 == 0">trace</failure></testcase>
<testcase classname="tests.long" name="test_containers" time="0.1"><skipped message="not run: no Docker engine"/>
</testcase></testsuite></testsuites>"""


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two runs in the schedules' folder, both finished, one more that was not; and of another part's."""
    monkeypatch.setattr(long_tests, "LONG", tmp_path)
    monkeypatch.setattr(long_tests, "KEPT", tmp_path / "test-long.json")
    monkeypatch.setattr(long_tests, "PAGE", tmp_path / "test-long.md")
    (tmp_path / "schedules.xml").write_text(JUNIT)
    counts = dict.fromkeys(SUMMED, 0) | {"applied": 700, "lost": 2}
    for name, faults, verdict in (("random-1", 2, "valid"), ("random-2", 1, "invalid"), ("soak-kafka", 9, "valid")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"faults": [{}] * faults}))
        told = {"scenario": "steady", "broker": "kafka", "counts": counts, "verdict": verdict}
        (tmp_path / name / "verdict.json").write_text(json.dumps(told))
    (tmp_path / "random-3").mkdir()
    return tmp_path


def test_the_page_names_what_did_not_pass_and_sums_the_runs_of_the_part(reports: Path) -> None:
    keep("schedules")
    told = (reports / "test-long.md").read_text()
    machine = f"{psutil.cpu_count()} cores, Python {platform.python_version()}"
    assert "1 passed, 1 failure, 1 skipped." in told
    assert f"| schedules | 2026-01-02T03:04 | abc123 | {machine} | 2 | 3 | 1 |" in told
    assert "**Never run: soak, scenarios, rest.**" in told
    assert "| schedules | test_a_schedule | 2 | 1 | 61 s |" in told
    assert "- schedules: test_a_schedule[2-kafka]: failure: AssertionError: seed 2 on kafka: invalid\n" in told
    assert "- schedules: test_containers: skipped: not run: no Docker engine\n" in told
    assert (
        "| schedules | steady, kafka | 1 valid, 1 invalid | 3 | 0 | 0 | 1,400 | 0 | 0 | 0 | 4 | 0 | 0 | 0 | 0 |" in told
    )


def test_a_part_that_was_not_run_keeps_its_last_result_although_its_files_are_gone(reports: Path) -> None:
    keep("schedules")
    before = (reports / "test-long.md").read_text()
    (reports / "rest.xml").write_text(JUNIT.replace("abc123", "def456"))
    (reports / "schedules.xml").unlink()
    shutil.rmtree(reports / "random-1")
    keep("rest")
    after = (reports / "test-long.md").read_text()
    machine = f"{psutil.cpu_count()} cores, Python {platform.python_version()}"
    assert "**Never run: soak, scenarios.**" in after
    assert f"| rest | 2026-01-02T03:04 | def456 | {machine} | 2 | 3 | 1 |" in after
    assert {line for line in before.splitlines() if line.startswith("| schedules")} <= set(after.splitlines())


def test_the_page_kept_is_written_from_the_record_kept() -> None:
    parts = long_tests.PARTS_KEPT.validate_json(long_tests.KEPT.read_bytes())
    assert long_tests.page(parts) == long_tests.PAGE.read_text()
