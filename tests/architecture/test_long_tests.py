"""What is kept of `make test-long` tells every test that did not pass, and sums what the runs' checkers counted."""

from pathlib import Path

from scripts.long_tests import SUMMED, page, read_part

JUNIT = """<testsuites><testsuite name="abc123" timestamp="2026-01-02T03:04:05.6" time="120.0">
<testcase classname="tests.long" name="test_a_schedule[1-kafka]" time="61.0"/>
<testcase classname="tests.long" name="test_a_schedule[2-kafka]" time="59.0">
<failure message="AssertionError: seed 2 on kafka: invalid&#10;assert 1 == 0">trace</failure></testcase>
<testcase classname="tests.long" name="test_containers" time="0.1"><skipped message="not run: no Docker engine"/>
</testcase></testsuite></testsuites>"""


def test_the_page_names_what_did_not_pass_and_sums_the_runs(tmp_path: Path) -> None:
    (tmp_path / "schedules.xml").write_text(JUNIT)
    counts = dict.fromkeys(SUMMED, 0) | {"applied": 700, "lost": 2}
    verdict = {"scenario": "steady", "broker": "kafka", "counts": counts}
    runs = [
        ({"faults": [{}, {}]}, verdict | {"verdict": "valid"}),
        ({"faults": [{}]}, verdict | {"verdict": "invalid"}),
    ]
    told = page([read_part(tmp_path / "schedules.xml")], runs)
    assert "1 passed, 1 failure, 1 skipped." in told
    assert "| schedules | 2026-01-02T03:04 | abc123 | 2 | 3 | 1 |" in told
    assert "**Never run: soak, scenarios, rest.**" in told
    assert "| test_a_schedule | 2 | 1 | 61 s |" in told
    assert "- test_a_schedule[2-kafka]: failure: AssertionError: seed 2 on kafka: invalid\n" in told
    assert "- test_containers[]: skipped: not run: no Docker engine\n" in told
    assert "| steady, kafka | 1 valid, 1 invalid | 3 | 0 | 0 | 1,400 | 0 | 0 | 0 | 4 | 0 | 0 | 0 | 0 |" in told
