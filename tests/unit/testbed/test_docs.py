"""What the pages list is what the code has."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from benchmarks.phases import _Run
from testbed import services
from testbed.lab import RunLab

DOCS = Path(__file__).parents[3] / "docs"


def first_cells(page: str, heading: str) -> set[str]:
    """The words in code type of the first column below a heading."""
    part = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]*) \|", part, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def keys(answers: Callable[..., Any]) -> set[str]:
    """Of the dictionary that the function returns."""
    returned = [
        node for node in ast.walk(ast.parse(dedent(inspect.getsource(answers)))) if isinstance(node, ast.Return)
    ]
    document = returned[-1].value
    assert isinstance(document, ast.Dict)
    return {key.value for key in document.keys if isinstance(key, ast.Constant)}


def test_the_page_of_operations_lists_every_fault_that_chaos_does() -> None:
    assert first_cells("operations.md", "chaos") == set(services.FAULTS)


def test_the_page_of_a_runs_files_lists_every_field_of_run_json() -> None:
    written = keys(_Run._run_file) | keys(RunLab.describe)
    assert {"format", "equivalents"} <= written
    assert first_cells("history.md", "`run.json`") == written
