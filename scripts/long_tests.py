"""Run the long tests, part by part, and write reports/test-long.md from what the parts left in reports/long.

`python scripts/long_tests.py [PART ...]`: all parts, or those named; a part that is not run keeps its last result. Of
the runs the page tells what the checkers counted, summed; of a test that did not pass, why.
"""

import json
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG = ROOT / "reports" / "long"
PAGE = ROOT / "reports" / "test-long.md"
_RUNS = {
    "soak": "half_an_hour or after_five_minutes",
    "scenarios": "a_scenario_breaks",
    "schedules": "random_schedule",
}
PARTS = {**_RUNS, "rest": f"not ({' or '.join(_RUNS.values())})"}
"""Each part's tests, as pytest's -k takes them: every long test is in one."""
FOLDERS = {"soak": ("soak-*", "memory-*"), "scenarios": ("scenario-*",), "schedules": ("random-*",), "rest": ()}
"""What a part leaves in reports/long beside its own NAME.xml."""
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


class Part(NamedTuple):
    """One pytest session."""

    name: str
    revision: str
    """Of the code that ran."""
    began: str
    """ISO 8601, to the minute."""
    wall_s: float
    cases: list[Case]
    """In the order of their end."""


def read_part(junit: Path) -> Part:
    """`junit`: NAME.xml, its suite named by the revision."""
    suite = next(Xml.parse(junit).iter("testsuite"))
    cases = []
    for told in suite.iter("testcase"):
        test, _, parameters = told.attrib["name"].partition("[")
        wrong = next((part for part in told if part.tag in HOW), None)
        said = "" if wrong is None else (wrong.attrib.get("message") or "").splitlines()[0]
        outcome = "passed" if wrong is None else wrong.tag
        cases.append(
            Case(told.attrib["classname"], test, parameters.rstrip("]"), outcome, float(told.attrib["time"]), said)
        )
    began = suite.attrib["timestamp"][: len("2026-01-01T00:00")]
    return Part(junit.stem, suite.attrib["name"], began, float(suite.attrib["time"]), cases)


def page(parts: Sequence[Part], runs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The whole of reports/test-long.md; `runs`: each one's run.json and verdict.json."""
    cases = [case for part in parts for case in part.cases]
    counted = Counter(case.outcome for case in cases)
    wrong = [case for case in cases if case.outcome != "passed"]
    never = [name for name in PARTS if name not in {part.name for part in parts}]
    lines = [
        "# The long tests, as last run",
        "",
        "Written by `make test-long`. " + ", ".join(f"{number} {what}" for what, number in counted.most_common()) + ".",
        f"{psutil.cpu_count()} cores, Python {platform.python_version()}.",
        *([f"**Never run: {', '.join(never)}.**"] if never else []),
        "",
        "| part | began | of the code at | minutes | tests | passed |",
        "|---|---|---|---:|---:|---:|",
        *map(_part, parts),
        "",
        "| test | cases | passed | longest |",
        "|---|---:|---:|---:|",
        *_tests(cases),
        "",
        "## Did not pass",
        "",
        *([f"- {case.test}[{case.parameters}]: {case.outcome}: {case.said}" for case in wrong] or ["Nothing."]),
        "",
        "## What the checkers counted in these runs",
        "",
        f"| runs | verdicts | faults | {' | '.join(SUMMED)} |",
        "|---|---|---:|" + "---:|" * len(SUMMED),
        *_runs(runs),
    ]
    return "\n".join(lines) + "\n"


def _part(part: Part) -> str:
    passed = sum(case.outcome == "passed" for case in part.cases)
    told = (part.name, part.began, part.revision, f"{part.wall_s / 60:.0f}", str(len(part.cases)), str(passed))
    return f"| {' | '.join(told)} |"


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


def run_part(name: str) -> int:
    """pytest's exit code. Two at a time: these load the processor, and more would find an overloaded machine."""
    for pattern in FOLDERS[name]:
        for folder in LONG.glob(pattern):
            shutil.rmtree(folder)
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    suite = f"junit_suite_name={told.stdout.strip() or 'an unknown revision'}"
    chosen = ["-m", "long", "-k", PARTS[name], "-n", "2", "--no-loadscope-reorder"]
    kept = ["-o", suite, f"--junitxml={LONG / name}.xml"]
    session = subprocess.Popen([sys.executable, "-m", "pytest", "tests", *chosen, *kept], cwd=ROOT)
    try:
        code = session.wait()
    except KeyboardInterrupt:
        session.wait()  # it has felt Ctrl-C too, and stops what it started
        code = pytest.ExitCode.INTERRUPTED
    if code > pytest.ExitCode.TESTS_FAILED:  # not whole: no result
        (LONG / f"{name}.xml").unlink(missing_ok=True)
    return code


def main(names: Sequence[str]) -> int:
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no part of the long tests: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    worst = 0
    for name in names or PARTS:
        code = run_part(name)
        write_page()
        worst = max(worst, code)
        if code == pytest.ExitCode.INTERRUPTED:
            break
    return worst


def write_page() -> None:
    folders = sorted(path.parent for path in LONG.glob("*/verdict.json"))
    runs = [
        (json.loads((folder / "run.json").read_text()), json.loads((folder / "verdict.json").read_text()))
        for folder in folders
    ]
    parts = [read_part(LONG / f"{name}.xml") for name in PARTS if (LONG / f"{name}.xml").exists()]
    PAGE.write_text(page(parts, runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
