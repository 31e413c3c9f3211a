"""Run the long tests, part by part: reports/test-long.json, and reports/test-long.md written from it.

`python scripts/long_tests.py [PART ...]`: all parts, or those named. A part that is not run keeps its last result, in a
fresh clone too. Of the runs the page tells what the checkers counted, summed; of a test that did not pass, why.
"""

import json
import platform
import shutil
import subprocess
import sys
import xml.etree.ElementTree as Xml
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import TypeAdapter

from testbed.revision import git_revision

ROOT = Path(__file__).resolve().parents[1]
LONG = ROOT / "reports" / "long"
KEPT = ROOT / "reports" / "test-long.json"
PAGE = KEPT.with_suffix(".md")
_RUNS = {
    "soak": "half_an_hour or after_five_minutes",
    "scenarios": "a_scenario_breaks",
    "schedules": "random_schedule",
}
PARTS = {**_RUNS, "rest": f"not ({' or '.join(_RUNS.values())})"}
"""Each part's tests, as pytest's -k takes them: every long test is in one."""
FOLDERS = {"soak": ("soak-*", "memory-*"), "scenarios": ("scenario-*",), "schedules": ("random-*",), "rest": ()}
"""What a part leaves in reports/long, beside its own NAME.xml."""
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


@dataclass(frozen=True)
class Test:
    name: str
    """Without its parameters."""
    cases: int
    passed: int
    longest_s: float


@dataclass(frozen=True)
class Runs:
    """Of one scenario on one broker, summed."""

    scenario: str
    broker: str
    verdicts: dict[str, int]
    faults: int
    counts: dict[str, int]
    """Of SUMMED."""


@dataclass(frozen=True)
class Part:
    """One pytest session."""

    name: str
    revision: str
    """Of the code that ran."""
    machine: str
    began: str
    """ISO 8601, to the minute."""
    wall_s: float
    outcomes: dict[str, int]
    """How many cases passed, and of each word of HOW."""
    tests: list[Test]
    wrong: list[str]
    """Each case that did not pass: its test, its parameters, a word of HOW, and the first line of why."""
    runs: list[Runs]


PARTS_KEPT = TypeAdapter(list[Part])


def read_part(junit: Path, folders: Iterable[Path]) -> Part:
    """`junit`: NAME.xml, its suite named by the revision; `folders`: of the part's runs."""
    suite = next(Xml.parse(junit).iter("testsuite"))
    seconds = defaultdict(list)
    outcomes = Counter[str]()
    passed = Counter[str]()
    wrong = []
    for told in suite.iter("testcase"):
        case = told.attrib["name"]
        test = case.partition("[")[0]
        why = next((part for part in told if part.tag in HOW), None)
        outcomes["passed" if why is None else why.tag] += 1
        passed[test] += why is None
        seconds[test].append(float(told.attrib["time"]))
        if why is not None:
            said = why.attrib.get("message", "").partition("\n")[0]
            wrong.append(f"{case}: {why.tag}: {said}")
    tests = [Test(name, len(its), passed[name], max(its)) for name, its in sorted(seconds.items())]
    return Part(
        junit.stem,
        suite.attrib["name"],
        f"{psutil.cpu_count()} cores, Python {platform.python_version()}",
        suite.attrib["timestamp"][: len("2026-01-01T00:00")],
        float(suite.attrib["time"]),
        dict(outcomes),
        tests,
        wrong,
        list(_sums(folders)),
    )


def _sums(folders: Iterable[Path]) -> Iterator[Runs]:
    of_kind = defaultdict(list)
    for folder in folders:
        faults = len(_read(folder / "run.json")["faults"])
        verdict = _read(folder / "verdict.json")
        of_kind[verdict["scenario"], verdict["broker"]].append((faults, verdict))
    for (scenario, broker), its in sorted(of_kind.items()):
        verdicts = Counter(verdict["verdict"] for _, verdict in its)
        counts = {name: sum(verdict["counts"][name] for _, verdict in its) for name in SUMMED}
        yield Runs(scenario, broker, dict(verdicts), sum(faults for faults, _ in its), counts)


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def page(parts: Sequence[Part]) -> str:
    """The whole of reports/test-long.md."""
    outcomes = sum((Counter(part.outcomes) for part in parts), Counter[str]())
    never = [name for name in PARTS if name not in {part.name for part in parts}]
    lines = [
        "# The long tests, as last run",
        "",
        f"Written by `make test-long`. {_counted(outcomes)}.",
        *([f"**Never run: {', '.join(never)}.**"] if never else []),
        "",
        "| part | began | of the code at | on | minutes | tests | passed |",
        "|---|---|---|---|---:|---:|---:|",
        *map(_part, parts),
        "",
        "| part | test | cases | passed | longest |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {part.name} | {test.name} | {test.cases} | {test.passed} | {test.longest_s:,.0f} s |"
            for part in parts
            for test in part.tests
        ),
        "",
        "## Did not pass",
        "",
        *([f"- {part.name}: {case}" for part in parts for case in part.wrong] or ["Nothing."]),
        "",
        "## What the checkers counted in these runs",
        "",
        f"| part | runs | verdicts | faults | {' | '.join(SUMMED)} |",
        "|---|---|---|---:|" + "---:|" * len(SUMMED),
        *(f"| {part.name} | {_run(runs)}" for part in parts for runs in part.runs),
    ]
    return "\n".join(lines) + "\n"


def _part(part: Part) -> str:
    cases, passed = sum(part.outcomes.values()), part.outcomes.get("passed", 0)
    revision = part.revision[:7] + part.revision[40:]  # as git shortens it, with its -dirty
    told = (part.name, part.began, revision, part.machine, f"{part.wall_s / 60:.0f}", str(cases), str(passed))
    return f"| {' | '.join(told)} |"


def _run(runs: Runs) -> str:
    sums = " | ".join(f"{runs.counts[name]:,}" for name in SUMMED)
    return f"{runs.scenario}, {runs.broker} | {_counted(Counter(runs.verdicts))} | {runs.faults:,} | {sums} |"


def _counted(words: Counter[str]) -> str:
    return ", ".join(f"{number:,} {word}" for word, number in words.most_common())


def run_part(name: str) -> int:
    """pytest's exit code. Two at a time: these load the processor, and more would find an overloaded machine."""
    for folder in _folders(name):
        shutil.rmtree(folder)
    suite = f"junit_suite_name={git_revision() or 'unknown'}"
    chosen = ["-m", "long", "-k", PARTS[name], "-n", "2", "--no-loadscope-reorder"]
    kept = ["-o", suite, f"--junitxml={_junit(name)}"]
    session = subprocess.Popen([sys.executable, "-m", "pytest", "tests", *chosen, *kept], cwd=ROOT)
    try:
        return session.wait()
    except KeyboardInterrupt:
        session.wait()  # it has felt Ctrl-C too, and stops what it started
        return pytest.ExitCode.INTERRUPTED


def main(names: Sequence[str]) -> int:
    if unknown := [name for name in names if name not in PARTS]:
        print(f"no part of the long tests: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    worst = 0
    for name in names or PARTS:
        code = run_part(name)
        worst = max(worst, code)
        if code == pytest.ExitCode.INTERRUPTED:
            break
        if code <= pytest.ExitCode.TESTS_FAILED:  # whole
            keep(name)
    return worst


def keep(name: str) -> None:
    """The part's result in place of its last one."""
    parts = {part.name: part for part in PARTS_KEPT.validate_json(KEPT.read_bytes())} if KEPT.exists() else {}
    finished = [folder for folder in _folders(name) if (folder / "verdict.json").exists()]
    parts[name] = read_part(_junit(name), finished)
    kept = [parts[part] for part in PARTS if part in parts]
    KEPT.write_bytes(PARTS_KEPT.dump_json(kept, indent=1) + b"\n")
    PAGE.write_text(page(kept))


def _junit(name: str) -> Path:
    return LONG / f"{name}.xml"


def _folders(name: str) -> list[Path]:
    return sorted(folder for pattern in FOLDERS[name] for folder in LONG.glob(pattern))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
