"""What is kept of `make test-long` tells every test that did not pass, and sums what the runs' checkers counted."""

from pathlib import Path

from scripts.long_result import SUMMED, page, read_cases

JUNIT = """<testsuites><testsuite time="120.0">
<testcase classname="tests.long" name="test_a_schedule[1-kafka]" time="61.0"/>
<testcase classname="tests.long" name="test_a_schedule[2-kafka]" time="59.0">
<failure message="AssertionError: seed 2 on kafka: invalid&#10;assert 1 == 0">trace</failure></testcase>
<testcase classname="tests.long" name="test_containers" time="0.1"><skipped message="not run: no Docker engine"/>
</testcase></testsuite></testsuites>"""


def test_the_page_names_what_did_not_pass_and_sums_the_runs(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    counts = dict.fromkeys(SUMMED, 0) | {"applied": 700, "lost": 2}
    verdict = {"scenario": "steady", "broker": "kafka", "counts": counts}
    runs = [
        ({"faults": [{}, {}]}, verdict | {"verdict": "valid"}),
        ({"faults": [{}]}, verdict | {"verdict": "invalid"}),
    ]
    told = page(read_cases(tmp_path / "junit.xml"), 120.0, runs)
    assert "1 passed, 1 failure, 1 skipped." in told
    assert "| test_a_schedule | 2 | 1 | 61 s |" in told
    assert "- test_a_schedule[2-kafka]: failure: AssertionError: seed 2 on kafka: invalid\n" in told
    assert "- test_containers[]: skipped: not run: no Docker engine\n" in told
    assert "| steady, kafka | 1 valid, 1 invalid | 3 | 0 | 0 | 1,400 | 0 | 0 | 0 | 4 | 0 | 0 | 0 | 0 |" in told
