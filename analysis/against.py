"""Is a comparison worse than an earlier one? Pure: takes the results of both, runs nothing.

A promise kept before and broken now is a regression. A figure is one only where both have at least three repeats and
the whole interval of the ratio now over before lies beyond the margin; all figures compared here are better when low.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from analysis.estimates import FEWEST_REPEATS, RatioEstimate, median_ratio
from analysis.findings import DRIFT_ALLOWED_RATIO, Result, by_case, conclusive, on

MARGIN_RATIO = 1.10
"""A change that is certain and smaller than this is not called a regression."""


@dataclass(frozen=True)
class Change:
    """One figure, before and now."""

    case: str
    broker: str
    what: str
    before: float
    now: float
    estimate: RatioEstimate
    """Now over before."""

    @property
    def is_regression(self) -> bool:
        return self.estimate.low > MARGIN_RATIO

    @property
    def is_improvement(self) -> bool:
        return self.estimate.high < 1 / MARGIN_RATIO

    def __str__(self) -> str:
        word = "worse" if self.is_regression else "better" if self.is_improvement else "no change shown"
        return (
            f"{self.case} on {self.broker}: {self.what} {self.before:.4g} before, {self.now:.4g} now, "
            f"ratio {self.estimate.ratio:.2f} ({self.estimate.low:.2f} to {self.estimate.high:.2f}): {word}"
        )


@dataclass(frozen=True)
class Against:
    """What became of an earlier comparison."""

    broken: list[str] = field(default_factory=list)
    """Promises kept before and broken now."""
    changes: list[Change] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 on a regression, 2 when no figure could be compared, else 0."""
        if self.broken or any(change.is_regression for change in self.changes):
            return 1
        return 0 if self.changes else 2


def against(before: Sequence[Result], now: Sequence[Result]) -> Against:
    """Case by case and broker by broker; what only one of them has is named."""
    found = Against()
    earlier, later = by_case(before), by_case(now)
    bearing = {id(result) for result in (*conclusive(before), *conclusive(now))}
    for case in dict.fromkeys((*earlier, *later)):
        for broker in sorted({run.broker for run in (*earlier.get(case, ()), *later.get(case, ()))}):
            old, new = on(earlier.get(case, ()), broker), on(later.get(case, ()), broker)
            place = f"{case} on {broker}"
            if not old or not new:
                found.not_compared.append(f"{place}: only in the {'later' if new else 'earlier'} comparison")
                continue
            # A naive variant breaks its contract on purpose. One that could not be judged says nothing of the others.
            words = {run.word for run in old}
            if not new[0].naive and "valid" in words and "invalid" not in words:
                found.broken.extend(
                    f"{place}: valid before, now {'; '.join(run.verdict['reasons'])}"
                    for run in new
                    if run.word == "invalid"
                )
            reason = _unlike(old, new)
            if not reason and (gave_way := _gave_way(old, new)):
                found.broken.append(f"{place}: {gave_way}")
                continue
            if reason := reason or _too_few(old, new, bearing):
                found.not_compared.append(f"{place}: {reason}")
                continue
            old, new = ([run for run in runs if id(run) in bearing] for runs in (old, new))
            found.broken.extend(f"{place}: {said}" for said in _stuck(old, new))
            found.changes.extend(_changes(case, broker, old, new))
    return found


def _unlike(old: Sequence[Result], new: Sequence[Result]) -> str:
    for name in ("cpus", "memory_bytes"):
        if {run.run.machine.get(name) for run in old} != {run.run.machine.get(name) for run in new}:
            return f"another machine ({name} differs)"
    if {(r.run.schedule.rate_per_s, r.run.schedule.load_s) for r in old} != {
        (r.run.schedule.rate_per_s, r.run.schedule.load_s) for r in new
    }:
        return "another load"
    if {run.contract for run in old} != {run.contract for run in new}:
        return "another contract"
    speeds = [[run.work_per_s for run in runs if run.work_per_s] for runs in (old, new)]
    if all(speeds) and abs(median(speeds[1]) / median(speeds[0]) - 1) > DRIFT_ALLOWED_RATIO:
        return f"the machine itself was not as fast as before (over {DRIFT_ALLOWED_RATIO:.0%} apart)"
    return ""


def _gave_way(old: Sequence[Result], new: Sequence[Result]) -> str:
    """Of a load that every run met before and none meets now no figure is left to compare: the worst of changes."""
    before, now = ({run.verdict["saturated"] for run in runs} for runs in (old, new))
    if before != {"none"} or now & {"none", None} or min(len(old), len(new)) < FEWEST_REPEATS:
        return ""
    return f"the load was met before; now the limit is the {' or the '.join(sorted(now))}"


def _too_few(old: Sequence[Result], new: Sequence[Result], bearing: set[int]) -> str:
    fewest = min(sum(id(run) in bearing for run in runs) for runs in (old, new))
    if fewest >= FEWEST_REPEATS:
        return ""
    return f"{fewest} runs that bear a conclusion on one side, {FEWEST_REPEATS} are needed for an interval"


def _stuck(old: Sequence[Result], new: Sequence[Result]) -> list[str]:
    """Faults that every run recovered from before, and one never does now."""
    before = old[0].verdict["recovery_s"]
    came_back = [fault for fault in before if all(run.verdict["recovery_s"].get(fault) for run in old)]
    return [
        f"recovered from {fault} before, now it never does"
        for fault in came_back
        if any(fault in run.verdict["recovery_s"] and run.verdict["recovery_s"][fault] is None for run in new)
    ]


def _changes(case: str, broker: str, old: Sequence[Result], new: Sequence[Result]) -> list[Change]:
    changes = []
    for what in sorted(_values(old[0]).keys() & _values(new[0]).keys()):
        before = [value for run in old if (value := _values(run).get(what))]
        now = [value for run in new if (value := _values(run).get(what))]
        if min(len(before), len(now)) >= FEWEST_REPEATS:
            changes.append(Change(case, broker, what, median(before), median(now), median_ratio(now, before)))
    return changes


def _values(run: Result) -> dict[str, float]:
    """Name -> figure, of those above nought; lower is better."""
    recovery = {f"recovery from {fault}, s": s for fault, s in run.verdict["recovery_s"].items()}
    latency = {f"commit to apply {p}, ms": run.latency_ms("commit_to_apply", p) for p in ("p50", "p99")}
    used = run.verdict.get("resources", {})
    cpu = {
        f"CPU of the {part}, s a million": use["cpu_s_per_million"] for part, use in used.items() if part != "driver"
    }
    return {name: value for name, value in (recovery | latency | cpu).items() if value}
