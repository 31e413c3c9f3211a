"""Run the checkers' tests against each mutant of a module, in a copy of the tree; the tree itself is never changed.

One process holds what takes long to import, and forks for each mutant; a child imports the mutated checkers afresh.
What killed the mutants before is tried first, so that most die at their first test.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.mutation.changes import mutants

ROOT = Path(__file__).resolve().parents[2]
CHECKERS = Path("analysis") / "checkers"
LITERAL, PLANTED, DRIVEN = (
    f"tests/histories/test_{name}.py" for name in ("literal_histories", "planted_anomalies", "broker_level")
)
FLAWED, BOOKS, LIVES = (f"tests/histories/test_{name}.py" for name in ("refused_histories", "books", "evidence"))
VERDICT = "tests/unit/analysis/test_verdict.py"
TESTS = {
    "evidence": (LIVES, LITERAL, DRIVEN, VERDICT),
    "facts": (FLAWED, DRIVEN, PLANTED, LITERAL, VERDICT),
    "loss": (LITERAL, DRIVEN, PLANTED),
    "order": (LITERAL, DRIVEN),
    "shop": (BOOKS, VERDICT),
    "verdict": (LITERAL, FLAWED, BOOKS, VERDICT, DRIVEN, PLANTED),
}
"""Of each checker, the tests that are about it: each is gone through whole for a mutant that lives."""
CHOSEN = "not together and not saturated and not recovery and not stages"
"""As pytest's -k takes it: none that tries many examples, none that is about times, which are no checker's."""
KILLED, SURVIVED, TIMED_OUT, REFUSED = "killed", "survived", "timed out", "refused"
OUTCOMES = (KILLED, SURVIVED, TIMED_OUT, REFUSED)
"""Timed out: ten times as long as without a change. Refused: by DuckDB, as a typing error; its death proves nothing."""
REFUSALS = ("Parser Error", "Binder Error", "Catalog Error")
FEW = 4
"""Tests that killed last, tried before all: their files alone are collected."""
LOG, TEMPORARY = "mutant.log", "mutant-tmp"
"""In the copy: what the last tests said, and their tmp_path."""
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "reports", "docs")
IMPORTED_BEFORE = ("altair", "duckdb", "hdrh.histogram", "jinja2", "typer.testing", "vl_convert", "tests.conftest")
"""What the tests need and takes long to import; nothing that imports a checker."""


class Result(NamedTuple):
    mutant: str
    outcome: str
    """One of OUTCOMES."""
    by: str
    """The test that failed first."""
    seconds: float


class MutationFailed(Exception):
    """The tests fail, or do not run, without any change: nothing can be said of a mutant."""


MODULES = tuple(sorted(path.stem for path in (ROOT / CHECKERS).glob("[!_]*.py")))
"""The checkers that have anything to change."""


def ids(module: str) -> list[str]:
    return [mutant.id for mutant in mutants(module, (ROOT / CHECKERS / f"{module}.py").read_text())]


def run_mutants(module: str, tests: Sequence[str] | None = None, only: Collection[str] | None = None) -> list[Result]:
    """What became of each mutant of a checker (of those named in `only`), in the order of the text.

    `tests`: files or tests, as pytest takes them, in place of those of TESTS. Raises MutationFailed.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copy = Path(scratch) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (copy / LOG).touch()
        chosen = TESTS[module] if tests is None else tests
        asked = json.dumps({"module": module, "tests": chosen, "only": None if only is None else sorted(only)})
        command = [sys.executable, "-m", "tests.mutation.running", asked]
        # The order of a set is the same each time: a mutant may live by it.
        fixed = {"PYTHONHASHSEED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment = os.environ | fixed | {"PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise MutationFailed(f"{module}: {(copy / LOG).read_text()[-3000:]}")
    return [Result(*row) for row in json.loads(done.stdout)]


def _in_the_copy(module: str, tests: Sequence[str], only: Sequence[str] | None) -> list[Result]:
    path = CHECKERS / f"{module}.py"
    whole = path.read_text()
    _prepare()
    clean = _forked(tests, [], limit_s=600)
    if clean.outcome != SURVIVED:
        raise MutationFailed(f"without a change: {clean}")
    # Modules may be stale in a cache that only looks at the size and the second; the tests' own stay.
    shutil.rmtree(CHECKERS / "__pycache__", ignore_errors=True)
    sys.dont_write_bytecode = True
    results, killers = [], []
    for mutant in mutants(module, whole):
        if only is None or mutant.id in only:
            path.write_text(mutant.text)
            result = _forked(tests, killers, limit_s=60 + 10 * clean.seconds)
            results.append(result._replace(mutant=mutant.id))
            if result.by:
                killers = [result.by, *(killer for killer in killers if killer != result.by)]
    return results


def _prepare() -> None:
    for name in IMPORTED_BEFORE:
        import_module(name)
    import duckdb

    connect = duckdb.connect

    def with_one_thread(path: str, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
        # A tiny history gives a second thread nothing to do but to start.
        return connect(path, config=config | {"threads": 1})

    duckdb.connect = with_one_thread
    early = [name for name in sys.modules if name.startswith("analysis")]
    assert not early, f"imported before the change: {early}"


def _forked(tests: Sequence[str], killers: Sequence[str], limit_s: float) -> Result:
    began = time.monotonic()
    forking = multiprocessing.get_context("fork")
    heard, says = forking.Pipe(duplex=False)
    child = forking.Process(target=_test, args=(tests, killers, says))
    child.start()
    says.close()
    try:
        told = heard.recv() if heard.poll(limit_s) else (TIMED_OUT, "")
    except EOFError:
        raise MutationFailed("the tests ended without a result") from None
    finally:
        child.kill()
        child.join()
    return Result("", *told, round(time.monotonic() - began, 2))


def _test(tests: Sequence[str], killers: Sequence[str], says: Connection) -> None:
    with open(LOG, "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    watch = Watch()
    how = ["-x", "-q", "--tb=short", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={TEMPORARY}"]
    for chosen in (killers[:FEW], tests):
        code = pytest.main([*how, "-m", "not long", "-k", CHOSEN, *chosen], plugins=[watch]) if chosen else 0
        if code != pytest.ExitCode.OK:
            break
    if code == pytest.ExitCode.OK:
        says.send((SURVIVED, ""))
    elif code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED) and watch.by:
        says.send((REFUSED if any(word in watch.said for word in REFUSALS) else KILLED, watch.by))


class Watch:
    """Inside pytest: keeps which test failed and what the checkers then said."""

    def __init__(self) -> None:
        self.by = ""
        self.said = ""

    def pytest_collection_finish(self) -> None:
        """Listen to what the checkers say where they cannot judge."""
        from analysis.checkers import verdict

        assert Path(verdict.__file__).is_relative_to(Path.cwd()), verdict.__file__
        unjudged = verdict.unjudged
        if unjudged.__name__ == "heard":
            return

        def heard(reason: str, *others: Any) -> Any:
            self.said += f"{reason}\n"
            return unjudged(reason, *others)

        verdict.unjudged = heard

    def pytest_runtest_setup(self) -> None:
        self.said = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.by = report.nodeid
            self.said += report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.by = report.nodeid


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(_in_the_copy(asked["module"], asked["tests"], asked["only"])))
