"""The contract suite's matrix, behaviours by broker profile, printed at the end of a session of one or many processes.

A test process tells its cells in the reports' `user_properties` and, for what a profile does not promise, in its
`workeroutput`; the process that prints collects both.
"""

from typing import Any

import pytest

PROPERTY = "contract"
"""Name of the property of a test report: (behaviour, profile)."""

_WORDS = {"passed": "ok", "failed": "FAILED", "skipped": "SKIPPED", "not run": "not run"}


class Matrix:
    def __init__(self, profiles: list[str]) -> None:
        self._profiles = profiles
        self.cells: dict[tuple[str, str], str] = {}

    def not_promised(self, behaviour: str, profile: str, lacks: list[str]) -> None:
        self.cells[behaviour, profile] = f"not promised: {', '.join(lacks)}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and (report.when == "call" or report.outcome != "passed"):
                behaviour, profile = value  # type: ignore[misc]
                cell = (str(behaviour), str(profile))
                self.cells[cell] = "failed" if self.cells.get(cell) == "failed" else report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            told = {cell: word for cell, word in self.cells.items() if word.startswith("not promised")}
            output[PROPERTY] = [(*cell, word) for cell, word in told.items()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        output = getattr(node, "workeroutput", {})
        self.cells.update({(behaviour, profile): word for behaviour, profile, word in output.get(PROPERTY, [])})

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        profiles = [profile for profile in self._profiles if any(p == profile for _, p in self.cells)]
        if not profiles:
            return
        width = max(len(profile) for profile in profiles) + 2
        terminalreporter.section("behaviours by broker profile ('no X': not promised, for want of capability X)")
        terminalreporter.write_line("".join(profile.ljust(width) for profile in profiles))
        rows = {b: [self.cells.get((b, p), "not run") for p in profiles] for b, _ in self.cells}
        for behaviour, cells in sorted(rows.items()):
            terminalreporter.write_line(f"- {behaviour.replace('_', ' ')}")
            shown = [_WORDS.get(cell, cell.replace("not promised:", "no")) for cell in cells]
            terminalreporter.write_line("".join(cell[: width - 1].ljust(width) for cell in shown))
        for number, profile in enumerate(profiles):
            cells = [row[number] for row in rows.values()]
            counts = {kind: cells.count(kind) for kind in ("passed", "failed", "skipped", "not run")}
            counts["not promised"] = len(cells) - sum(counts.values())
            terminalreporter.write_line(f"{profile}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items() if n))
