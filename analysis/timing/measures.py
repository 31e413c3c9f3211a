"""Everything the clock says about one run, as the fields of `verdict.json`."""

from dataclasses import dataclass
from typing import Any

from analysis.checkers.facts import Facts


@dataclass(frozen=True)
class Measures:
    latency_ms: dict[str, dict[str, float]]
    throughput_per_s: dict[str, float]
    saturated: str | None
    recovery_s: dict[str, float | None]
    resources: dict[str, dict[str, float]]

    def fields(self) -> dict[str, Any]:
        return dict(vars(self))


NO_MEASURES = Measures({}, {}, None, {}, {})


def measure(facts: Facts) -> Measures:
    return NO_MEASURES
