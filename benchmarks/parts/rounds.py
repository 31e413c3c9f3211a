"""Is our part as fast as its bare baseline? Alternating rounds in one process, medians, an interval of the ratio.

Alternating, because the machine's speed drifts: a ratio of two neighbours in time is steady where two rates are not.
Shared by every `testbed bench` part; what one round does is the part's own matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

RESAMPLES = 2_000
"""Bootstrap resamples: the interval's ends move by less than a hundredth from here on."""


T = TypeVar("T")


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """One comparison: medians over the rounds, and the ratio of neighbouring rounds."""

    name: str
    rate_per_s: float
    baseline: str
    baseline_rate_per_s: float
    ratio: float
    interval: Interval
    rounds: int
    vendor_rate_per_s: float | None = None

    @property
    def vendor_ratio(self) -> float | None:
        return self.rate_per_s / self.vendor_rate_per_s if self.vendor_rate_per_s else None

    @property
    def shows_difference(self) -> bool:
        return not self.interval.low <= 1.0 <= self.interval.high

    def beside_vendor(self, vendor_rate_per_s: float) -> "Result":
        return replace(self, vendor_rate_per_s=vendor_rate_per_s)

    def as_dict(self) -> dict[str, Any]:
        """The names of `testbed bench ... --json`."""
        row: dict[str, Any] = {
            "name": self.name,
            "rate_per_s": round(self.rate_per_s, 1),
            "baseline": self.baseline,
            "baseline_rate_per_s": round(self.baseline_rate_per_s, 1),
            "ratio": round(self.ratio, 4),
            "interval": [round(self.interval.low, 4), round(self.interval.high, 4)],
            "rounds": self.rounds,
        }
        if self.vendor_rate_per_s is not None and self.vendor_ratio is not None:
            row["vendor_rate_per_s"] = round(self.vendor_rate_per_s, 1)
            row["vendor_ratio"] = round(self.vendor_ratio, 4)
        return row


def compare_rounds(
    ours: Callable[[], float],
    baseline: Callable[[], float],
    rounds: int,
    seed: int,
    *,
    name: str = "",
    baseline_name: str = "",
    warm_up_rounds: int = 1,
) -> Result:
    """Run `rounds` pairs, the order swapped from pair to pair, after `warm_up_rounds` pairs that do not count.

    Each callable does one round and returns its rate in messages/s. Raises ValueError below 3 rounds (no interval
    can be told) and when a round returns no positive rate: it did nothing, so a ratio would be made up.
    """
    return result_of(alternate(ours, baseline, rounds, warm_up_rounds), seed, name=name, baseline_name=baseline_name)


def alternate(
    ours: Callable[[], T], baseline: Callable[[], T], rounds: int, warm_up_rounds: int = 1
) -> list[tuple[T, T]]:
    """What each pair of rounds returned, ours first in the pair whoever ran first."""
    if rounds < 3:
        raise ValueError(f"{rounds} rounds cannot give an interval; ask for 3 or more")
    for _ in range(warm_up_rounds):
        ours(), baseline()
    pairs: list[tuple[T, T]] = []
    for number in range(rounds):
        if number % 2:
            bare = baseline()
            pairs.append((ours(), bare))
        else:
            pairs.append((ours(), baseline()))
    return pairs


def result_of(pairs: Sequence[tuple[float, float]], seed: int, *, name: str = "", baseline_name: str = "") -> Result:
    """Medians of rates in messages/s and of their ratios; raises ValueError if a round moved nothing."""
    for number, (rate, bare) in enumerate(pairs):
        if rate <= 0 or bare <= 0:
            raise ValueError(f"round {number} of {name or 'the bench'} moved nothing: ours {rate}, baseline {bare}")
    ratios = [rate / bare for rate, bare in pairs]
    return Result(
        name=name,
        rate_per_s=median(rate for rate, _ in pairs),
        baseline=baseline_name,
        baseline_rate_per_s=median(bare for _, bare in pairs),
        ratio=median(ratios),
        interval=bootstrap_median(ratios, seed),
        rounds=len(pairs),
    )


def bootstrap_median(values: Sequence[float], seed: int, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap of the median (Efron 1979); with few values it is hardly wider than their range."""
    random = Random(seed)
    medians = sorted(median(random.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    return Interval(medians[int(tail * RESAMPLES)], medians[min(RESAMPLES - 1, int((1 - tail) * RESAMPLES))])


def as_document(bench: str, broker: str, profile: str, results: Sequence[Result]) -> dict[str, Any]:
    """What `testbed bench BENCH --json` prints."""
    return {"bench": bench, "broker": broker, "profile": profile, "results": [result.as_dict() for result in results]}


def print_table(document: dict[str, Any], console: Console | None = None) -> None:
    """The same document for people; rates in messages/s, or in its own `unit`."""
    table = Table(title=f"bench {document['bench']}: {document['profile']}")
    per_s = f"{document.get('unit', '')}/s"
    rates = (f"ours {per_s}", "baseline", f"baseline {per_s}")
    for heading in ("name", *rates, "ratio", "95 % interval", "rounds", "vendor /s", "×"):
        table.add_column(heading, justify="left" if heading in ("name", "baseline") else "right")
    for row in document["results"]:
        low, high = row["interval"]
        vendor = f"{row['vendor_rate_per_s']:,.0f}" if "vendor_rate_per_s" in row else ""
        times = f"{row['vendor_ratio']:.2f}" if "vendor_ratio" in row else ""
        spans = " no difference shown" if low <= 1.0 <= high else ""
        table.add_row(
            row["name"],
            f"{row['rate_per_s']:,.0f}",
            row["baseline"],
            f"{row['baseline_rate_per_s']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{low:.2f} – {high:.2f}{spans}",
            str(row["rounds"]),
            vendor,
            times,
        )
    (console or Console()).print(table)
