"""How sure a comparison of repeated runs is, and when a difference may be claimed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST_REPEATS = 3
"""Below it an interval would only restate the runs."""


def median_of_known(values: Sequence[float | None]) -> float | None:
    """None where not one is known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


@dataclass(frozen=True)
class RatioEstimate:
    """Median of the first over the median of the second, with its interval."""

    ratio: float
    low: float
    high: float
    repeats: int

    @property
    def shows_difference(self) -> bool:
        return not self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        text = f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f}, n = {self.repeats})"
        return text if self.shows_difference else f"{text}: no difference shown"


def median_ratio(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, rounds: int = 5000, seed: int = 1
) -> RatioEstimate:
    """Percentile bootstrap of the ratio of medians (Efron and Tibshirani, 1993, ch. 13), each side drawn by itself.

    Raises ValueError for fewer than three repeats a side, or for values not above zero.
    """
    if min(len(first), len(second)) < FEWEST_REPEATS:
        raise ValueError(f"an interval needs {FEWEST_REPEATS} repeats a side, got {len(first)} and {len(second)}")
    if min(*first, *second) <= 0:
        raise ValueError("a ratio needs values above zero")
    draw = random.Random(seed)
    ratios = sorted(
        median(draw.choices(first, k=len(first))) / median(draw.choices(second, k=len(second))) for _ in range(rounds)
    )
    outside = (1 - confidence) / 2
    low, high = ratios[int(outside * rounds)], ratios[min(rounds - 1, int((1 - outside) * rounds))]
    return RatioEstimate(median(first) / median(second), low, high, min(len(first), len(second)))
