"""Everything the clock says about one run, as the fields of `verdict.json`."""

from dataclasses import dataclass, field
from typing import Any

from analysis.checkers.facts import Facts
from analysis.timing.latency import journeys, latencies
from analysis.timing.load import backlog_s, per_million, saturated, slip, uses
from analysis.timing.recovery import recovery
from analysis.timing.series import Series, over_time, throughput
from analysis.timing.window import fault_bands, load_window


@dataclass(frozen=True)
class Measures:
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    throughput_per_s: dict[str, float] = field(default_factory=dict)
    saturated: str | None = None
    """A part, `whole machine`, `none` (the schedule was met), or None: cannot be told."""
    recovery_s: dict[str, float | None] = field(default_factory=dict)
    resources: dict[str, dict[str, float]] = field(default_factory=dict)
    measured_s: float = 0.0
    slip_ratio: float | None = None
    backlog_s: float | None = None
    faults: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    series: Series = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        return dict(vars(self))


NO_MEASURES = Measures()


def measure(facts: Facts) -> Measures:
    """Measure the load phase; a run that never loaded has no measures."""
    window = load_window(facts)
    if window is None:
        return NO_MEASURES
    journeys(facts, window)
    stages = latencies(facts)
    used = uses(facts, window)
    bands = fault_bands(facts, window)
    return Measures(
        latency_ms={stage: latency.percentiles for stage, latency in stages.items()},
        throughput_per_s=throughput(facts, window),
        saturated=saturated(facts, window, used),
        recovery_s=recovery(facts, window, bands),
        resources=per_million(facts, window, used),
        measured_s=round(window.length_s, 3),
        slip_ratio=slip(facts, window),
        backlog_s=backlog_s(facts, window),
        faults=[band._asdict() for band in bands],
        curves={stage: latency.curve for stage, latency in stages.items()},
        series=over_time(facts, window),
    )
