"""Write reports/test-long.md from what `make test-long` left in reports/long: junit.xml, and the files of each run.

`python scripts/long_result.py`. Of the runs it tells what the checkers counted, summed; of a test that did not pass,
why.
"""

import json
import platform
import subprocess
import xml.etree.ElementTree as Xml
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
LONG = ROOT / "reports" / "long"
PAGE = ROOT / "reports" / "test-long.md"
SUMMED = (
    "acknowledged",
    "unknown",
    "applied",
    "recovered",
    "duplicated_on_wire",
    "duplicated_effects",
    "lost",
    "phantom",
    "out_of_order",
    "unseen",
    "unstored",
)
HOW = ("failure", "error", "skipped")


class Case(NamedTuple):
    file: str
    test: str
    """Without its parameters."""
    parameters: str
    outcome: str
    """passed, or a word of HOW."""
    seconds: float
    said: str
    """The first line of why it did not pass."""


def read_cases(junit: Path) -> list[Case]:
    """Every test of one pytest session, in the order of their end."""
    cases = []
    for told in Xml.parse(junit).iter("testcase"):
        test, _, parameters = told.attrib["name"].partition("[")
        wrong = next((part for part in told if part.tag in HOW), None)
        said = "" if wrong is None else (wrong.attrib.get("message") or "").splitlines()[0]
        outcome = "passed" if wrong is None else wrong.tag
        cases.append(
            Case(told.attrib["classname"], test, parameters.rstrip("]"), outcome, float(told.attrib["time"]), said)
        )
    return cases


def page(cases: Sequence[Case], wall_s: float, runs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The whole of reports/test-long.md; `runs`: each one's run.json and verdict.json."""
    counted = Counter(case.outcome for case in cases)
    wrong = [case for case in cases if case.outcome != "passed"]
    lines = [
        "# The long tests, as last run",
        "",
        "Written by `make test-long`. " + ", ".join(f"{number} {what}" for what, number in counted.most_common()) + ".",
        f"{wall_s / 60:.0f} minutes on {psutil.cpu_count()} cores, Python {platform.python_version()}; "
        f"of the code at {revision()}.",
        "",
        "| test | cases | passed | longest |",
        "|---|---:|---:|---:|",
        *_tests(cases),
        "",
        "## Did not pass",
        "",
        *([f"- {case.test}[{case.parameters}]: {case.outcome}: {case.said}" for case in wrong] or ["Nothing."]),
        "",
        "## What the checkers counted in the random schedules and the soaks",
        "",
        f"| runs | verdicts | faults | {' | '.join(SUMMED)} |",
        "|---|---|---:|" + "---:|" * len(SUMMED),
        *_runs(runs),
    ]
    return "\n".join(lines) + "\n"


def revision() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "an unknown revision"


def _tests(cases: Sequence[Case]) -> Iterator[str]:
    of_test = defaultdict(list)
    for case in cases:
        of_test[case.file, case.test].append(case)
    for (_, test), its in sorted(of_test.items()):
        passed = sum(case.outcome == "passed" for case in its)
        yield f"| {test} | {len(its)} | {passed} | {max(case.seconds for case in its):,.0f} s |"


def _runs(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[str]:
    of_kind = defaultdict(list)
    for run, verdict in runs:
        of_kind[verdict["scenario"], verdict["broker"]].append((run, verdict))
    for (scenario, broker), its in sorted(of_kind.items()):
        verdicts = Counter(verdict["verdict"] for _, verdict in its)
        said = ", ".join(f"{number} {word}" for word, number in verdicts.most_common())
        faults = sum(len(run["faults"]) for run, _ in its)
        sums = [sum(verdict["counts"][name] for _, verdict in its) for name in SUMMED]
        yield f"| {scenario}, {broker} | {said} | {faults:,} | " + " | ".join(f"{number:,}" for number in sums) + " |"


def main() -> None:
    junit = LONG / "junit.xml"
    suite = next(Xml.parse(junit).iter("testsuite"))
    folders = sorted(path.parent for path in LONG.glob("*/verdict.json"))
    runs = [
        (json.loads((folder / "run.json").read_text()), json.loads((folder / "verdict.json").read_text()))
        for folder in folders
    ]
    PAGE.write_text(page(read_cases(junit), float(suite.attrib["time"]), runs))


if __name__ == "__main__":
    main()
