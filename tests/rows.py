"""Which test shows which row of the five systems, and on which broker did it pass? The plugin behind `docs/systems.md`.

    @pytest.mark.row("S0.4", "S2.1")                 # the broker is read from the test's parameters and fixtures
    @pytest.mark.row("S4.9", on="memory")            # or said, where neither tells

`pytest tests --systems docs/systems.md` writes the table from what this run saw pass; tests this run did not select
keep what the file says of them, tests that are gone lose it. Results travel in `user_properties`, so it works under
xdist.
"""

import ast
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
BROKERS = ("memory", "kafka", "rabbitmq")
ANY = "any"
"""The row is shown without a broker: what it says cannot differ between two."""
ROWS_FILE = Path(__file__).with_name("rows.tsv")
PROPERTY = "rows"
_LINE = re.compile(r"^\| (S\d\.\d+) \|(?:[^|]*\|){5} (?P<shown>[^|]*) \|$")
_SHOWN = re.compile(r"`([^`]+)` \(([a-z, ]+)\)")

Shown = dict[tuple[str, str], set[str]]
"""(row, test) -> where it passed: brokers, or ANY."""


class Row(NamedTuple):
    id: str
    title: str
    is_later: bool


def read_rows() -> list[Row]:
    with ROWS_FILE.open(newline="") as file:
        return [
            Row(line["row"], line["what it is"], line["round"] == "later")
            for line in csv.DictReader(file, delimiter="\t")
        ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--systems", metavar="FILE", help="write the table of system rows from what this run sees")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Collector(config), "rows-collector")


class Collector:
    """In every process: say which rows a test shows. In the controller: gather what passed, write the table."""

    def __init__(self, config: pytest.Config) -> None:
        self._file = config.getoption("--systems")
        self._is_worker = hasattr(config, "workerinput")
        self._outcomes: dict[tuple[str, str, str], bool] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome: Any = yield
        rows = rows_of(item)
        if rows:
            outcome.get_result().user_properties.append((PROPERTY, [rows, list(places_of(item)), name_of(item)]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = dict(report.user_properties).get(PROPERTY)
        # A skipped case shows nothing; a case that failed anywhere takes its test off the list.
        if said is None or report.skipped or (report.passed and report.when != "call"):
            return
        for row in said[0]:
            for place in said[1]:
                key = (row, said[2], place)
                self._outcomes[key] = self._outcomes.get(key, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        if self._file and not self._is_worker:
            path = Path(self._file)
            before = parse(path.read_text()) if path.exists() else {}
            path.write_text(table(merged(before, self._outcomes, marked_tests(ROOT / "tests"))))


def name_of(item: pytest.Item) -> str:
    """`tests/….py::test_name`: without the case, and without the group that xdist adds to a node's id."""
    return f"{item.path.relative_to(item.config.rootpath)}::{getattr(item, 'originalname', item.name)}"


def rows_of(item: pytest.Item) -> list[str]:
    return [str(row) for marker in item.iter_markers("row") for row in marker.args]


def places_of(item: pytest.Item) -> Sequence[str]:
    """The brokers this case runs on, or ANY."""
    said = [marker.kwargs["on"] for marker in item.iter_markers("row") if "on" in marker.kwargs]
    if said:
        return tuple(said)
    call = getattr(item, "callspec", None)
    parameters = [str(value) for value in call.params.values()] if call is not None else []
    fixtures = [name.removesuffix("_server") for name in getattr(item, "fixturenames", ()) if name.endswith("_server")]
    words = [word.partition("-")[0] for word in (*parameters, *fixtures)]
    return tuple(broker for broker in BROKERS if broker in words) or (ANY,)


def merged(before: Shown, outcomes: Mapping[tuple[str, str, str], bool], marked: Mapping[str, set[str]]) -> Shown:
    """What the file said of tests that still stand and did not run now, and what passed now."""
    ran = {(row, test) for row, test, _ in outcomes}
    kept = {
        (row, test): set(places)
        for (row, test), places in before.items()
        if (row, test) not in ran and row in marked.get(test, ())
    }
    for (row, test, place), has_passed in outcomes.items():
        if has_passed:
            kept.setdefault((row, test), set()).add(place)
    return kept


def table(shown: Shown) -> str:
    """The whole of `docs/systems.md`."""
    rows = read_rows()
    lines, working, working_later, missing = [], 0, 0, []
    for row in rows:
        tests = {test: places for (id_, test), places in shown.items() if id_ == row.id}
        where = set().union(*tests.values()) if tests else set()
        is_working = ANY in where or {"kafka", "rabbitmq"} <= where
        working += is_working
        working_later += is_working and row.is_later
        if not is_working and not row.is_later:
            missing.append(row.id)
        state = "works" if is_working else "later" if row.is_later else "missing"
        cells = [_cell(broker, where) for broker in BROKERS]
        told = "<br>".join(f"`{test}` ({', '.join(sorted(places))})" for test, places in sorted(tests.items()))
        lines.append(f"| {row.id} | {row.title} | {' | '.join(cells)} | {state} | {told} |")
    still_later = sum(row.is_later for row in rows) - working_later
    head = f"""# The five systems, row by row

Written by a test run: `pytest tests --systems docs/systems.md`. A row *works* when tests that show it passed on Kafka
and on RabbitMQ, or when what it says cannot differ between brokers (*any*). A row listed here whose test is gone fails
`tests/architecture/test_systems_table.py`; a test that stops passing fails by itself.

{working} of {len(rows)} rows work, {working_later} of them ahead of their round. Of the others {still_later} belong to
a later round, and {len(missing)} are missing: {", ".join(missing) or "none"}.

| row | what it is | memory | kafka | rabbitmq | state | shown by |
|---|---|---|---|---|---|---|
"""
    return head + "\n".join(lines) + "\n"


def _cell(broker: str, where: set[str]) -> str:
    if broker in where:
        return "passed"
    return "any" if ANY in where else ""


def parse(text: str) -> Shown:
    """What a table written before says."""
    shown: Shown = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            for test, places in _SHOWN.findall(match["shown"]):
                shown[match[1], test] = set(places.split(", "))
    return shown


def marked_tests(folder: Path, *, of_every_check: bool = False) -> dict[str, set[str]]:
    """`tests/….py::test_name` -> the rows its marks name, read from the sources alone. `of_every_check`: without the
    tests of which no case runs but in `make test-long`."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        of_all = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(getattr(target, "id", "") == "pytestmark" for target in node.targets)
        ]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [*of_all, *node.decorator_list]
                rows = set[str]().union(*map(_rows_in, marks))
                if rows and not (of_every_check and any(map(_is_long, marks))):
                    found[f"{path.relative_to(folder.parent)}::{node.name}"] = rows
    return found


def _is_long(mark: ast.expr) -> bool:
    """Whether it makes every case long: the mark itself, alone or in a list, or on each case of a parametrize."""
    if isinstance(mark, ast.List):
        return any(map(_is_long, mark.elts))
    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.parametrize":
        cases = mark.args[1] if len(mark.args) > 1 else None
        return (
            isinstance(cases, ast.List) and bool(cases.elts) and all("mark.long" in ast.unparse(c) for c in cases.elts)
        )
    return ast.unparse(mark) == "pytest.mark.long"


def _rows_in(node: ast.expr) -> set[str]:
    return {
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.row"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
