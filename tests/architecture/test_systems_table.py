"""`docs/systems.md` may claim only what a test still shows, and its plugin must notice when one stops."""

from pathlib import Path

import pytest

from tests.rows import ROOT, marked_tests, merged, parse, read_rows, table

pytest_plugins = ["pytester"]
TEST, OTHER = "tests/system/test_a.py::test_one", "tests/system/test_a.py::test_two"


def test_every_row_listed_as_working_still_has_its_test() -> None:
    listed = parse((ROOT / "docs" / "systems.md").read_text())
    marked = marked_tests(ROOT / "tests")
    gone = [f"{row}: {test}" for row, test in listed if row not in marked.get(test, ())]
    assert gone == [], "write the table anew: pytest --systems docs/systems.md"


def test_marks_name_rows_that_exist() -> None:
    known = {row.id for row in read_rows()}
    assert len(known) == 174
    wrong = [f"{test}: {row}" for test, rows in marked_tests(ROOT / "tests").items() for row in rows - known]
    assert wrong == []


def test_a_row_works_on_both_brokers_or_without_any() -> None:
    text = table({("S0.4", TEST): {"kafka"}, ("S0.5", TEST): {"kafka", "rabbitmq"}, ("S0.6", OTHER): {"any"}})
    states = {
        line.split(" | ")[0].lstrip("| "): line.split(" | ")[5] for line in text.splitlines() if line[:3] == "| S"
    }
    assert (states["S0.4"], states["S0.5"], states["S0.6"]) == ("missing", "works", "works")
    assert (states["S0.7"], states["S3.24"]) == ("missing", "later")
    assert parse(text) == {("S0.4", TEST): {"kafka"}, ("S0.5", TEST): {"kafka", "rabbitmq"}, ("S0.6", OTHER): {"any"}}


def test_what_failed_now_is_taken_off_and_what_did_not_run_stays_while_its_test_stands() -> None:
    before = {("S0.4", TEST): {"kafka"}, ("S0.5", OTHER): {"kafka"}, ("S0.6", "tests/gone.py::test_x"): {"kafka"}}
    now = {("S0.4", TEST, "kafka"): False, ("S0.4", TEST, "rabbitmq"): True}
    after = merged(before, now, {TEST: {"S0.4"}, OTHER: {"S0.5"}})
    assert after == {("S0.4", TEST): {"rabbitmq"}, ("S0.5", OTHER): {"kafka"}}


@pytest.mark.parametrize("more", [[], ["-n", "2", "--dist", "loadgroup"]])
def test_a_run_writes_what_passed_on_which_broker(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\nmarkers =\n  row(*ids): rows\n  xdist_group(name): together\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.row("S0.4")
        @pytest.mark.xdist_group("together")
        @pytest.mark.parametrize("broker", ["kafka", "rabbitmq-quorum-pika", "memory"])
        def test_one(broker):
            assert broker != "memory"

        @pytest.mark.row("S0.5")
        def test_two():
            pytest.skip("not here")

        @pytest.mark.row("S0.6")
        @pytest.mark.parametrize("size", [1, 2])
        def test_three(size):
            assert size == 1
        """
    )
    systems = pytester.path / "systems.md"
    pytester.runpytest_subprocess("-p", "tests.rows", f"--systems={systems}", *more)
    name = f"{Path('test_a_run_writes_what_passed_on_which_broker.py')}::test_one"
    assert parse(systems.read_text()) == {("S0.4", name): {"kafka", "rabbitmq"}}
