"""`docs/systems.md` may claim only what a test still shows, and its plugin must notice when one stops."""

import ast
import re
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


def test_every_row_that_is_shown_is_shown_by_a_test_that_every_check_runs() -> None:
    """By long tests alone it could stop working, and the check of a change would not notice."""
    shown = set[str]().union(*marked_tests(ROOT / "tests").values())
    noticed = set[str]().union(*marked_tests(ROOT / "tests", of_every_check=True).values())
    assert sorted(shown - noticed) == []


def test_a_test_without_a_case_for_every_check_is_told_from_one_that_has_some(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        """
@pytest.mark.row("S0.1")
@pytest.mark.parametrize("size", [1, pytest.param(1_000, marks=pytest.mark.long)])
def test_both_sizes(size): ...

@pytest.mark.row("S0.2")
@pytest.mark.parametrize("size", [pytest.param(1_000, marks=pytest.mark.long)])
def test_large(size): ...

@pytest.mark.long
@pytest.mark.row("S0.3")
def test_alone(): ...
"""
    )
    (tmp_path / "tests" / "test_whole.py").write_text(
        """
pytestmark = [pytest.mark.row("S0.4"), pytest.mark.long]

def test_of_a_long_file(): ...
"""
    )
    rows = {row for found in marked_tests(tmp_path / "tests").values() for row in found}
    assert rows == {"S0.1", "S0.2", "S0.3", "S0.4"}
    assert marked_tests(tmp_path / "tests", of_every_check=True) == {"tests/test_some.py::test_both_sizes": {"S0.1"}}


COMPLETION = {
    "entities": "tests/system/test_api_orders.py::"
    "test_an_order_is_answered_201_with_its_total_and_is_there_with_its_event",
    "event model": "tests/unit/domain/test_event_types.py::test_an_event_carries_its_fields_by_these_names",
    "topic": "tests/system/test_topology.py::test_after_a_start_the_broker_holds_the_topology_of_production",
    "producer": "tests/contract/test_behaviours.py::test_what_is_published_is_received_unchanged",
    "consumer": "tests/contract/test_behaviours.py::test_each_group_gets_all_of_its_types_and_only_those",
    "notification service": "tests/storage/test_reactions.py::test_notifications_are_one_an_event_and_channel",
    "integration test": "tests/system/test_groups.py::"
    "test_an_order_is_one_notification_of_its_customer_soon_after_the_answer",
    "async flow": "tests/system/test_saga.py::test_an_order_is_paid_or_cancelled_with_its_stock_and_money_put_back",
    "backlog after restart": "tests/system/test_groups.py::"
    "test_each_group_does_all_its_events_once_although_they_come_twice_and_one_group_was_away",
}
"""What article S2 calls complete, each with the test that says so."""


@pytest.mark.row("S2.27")
def test_each_point_of_the_completion_list_is_a_test_that_every_check_runs() -> None:
    marked = marked_tests(ROOT / "tests")
    assert [point for point, test in COMPLETION.items() if test not in marked] == []
    for test in COMPLETION.values():
        path, _, name = test.partition("::")
        body = ast.parse((ROOT / path).read_text()).body
        (found,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
        of_all = [node.value for node in body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
        marks = [ast.unparse(mark) for mark in (*found.decorator_list, *of_all)]
        assert [mark for mark in marks if re.search(r"mark\.(long|skip|xfail)", mark)] == [], test
    assert re.search(r"^make test ", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert 'pytest tests -m "not long"' in (ROOT / "Makefile").read_text()


def test_a_row_works_on_both_brokers_or_without_any() -> None:
    text = table({("S0.4", TEST): {"kafka"}, ("S0.5", TEST): {"kafka", "rabbitmq"}, ("S0.6", OTHER): {"any"}})
    states = {
        line.split(" | ")[0].lstrip("| "): line.split(" | ")[5] for line in text.splitlines() if line[:3] == "| S"
    }
    assert (states["S0.4"], states["S0.5"], states["S0.6"]) == ("missing", "works", "works")
    assert (states["S0.7"], states["S3.24"]) == ("missing", "later")
    assert parse(text) == {("S0.4", TEST): {"kafka"}, ("S0.5", TEST): {"kafka", "rabbitmq"}, ("S0.6", OTHER): {"any"}}


def test_the_numbers_of_the_head_are_each_row_once() -> None:
    rows = read_rows()
    now = next(row.id for row in rows if not row.is_later)
    for shown in ({}, {(now, TEST): {"any"}, ("S3.24", TEST): {"any"}}):
        text = table(shown)
        found = re.search(
            r"^(\d+) of (\d+) rows work, (\d+) of them ahead of their round\. Of the others (\d+) belong to\n"
            r"a later round, and (\d+) are missing: ",
            text,
            re.MULTILINE,
        )
        assert found
        working, rows_, ahead, later, missing = map(int, found.groups())
        assert (working, rows_, ahead) == (len(shown), len(rows), len(shown) // 2)
        assert working + later + missing == rows_
        states = [line.split(" | ")[5] for line in text.splitlines() if line[:3] == "| S"]
        assert (working, later, missing) == tuple(map(states.count, ("works", "later", "missing")))


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
