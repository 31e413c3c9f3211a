"""The sustainable rate: the highest at which a system keeps its schedule. Says which rate to try next; tries none."""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

FIRST_PER_S = 50.0
LOWEST_PER_S = 12.5
HIGHEST_PER_S = 12_800.0
CLOSE_ENOUGH_RATIO = 1.2
"""A rate that was kept and one that was not, so near to each other: the truth lies between."""


class Try(NamedTuple):
    rate_per_s: float
    kept: bool
    """The schedule was met and the outbox did not grow (docs/measuring.md, `saturated`)."""


def next_rate_per_s(tries: Sequence[Try]) -> float | None:
    """The rate to try next: twice or half, then the geometric middle; None when the rate is known or out of bounds."""
    kept, broken = sustainable_per_s(tries), _lowest_broken(tries)
    if kept is None and broken is None:
        return FIRST_PER_S
    if broken is None:
        assert kept is not None
        return kept * 2 if kept < HIGHEST_PER_S else None
    if kept is None:
        return broken / 2 if broken > LOWEST_PER_S else None
    return None if broken / kept <= CLOSE_ENOUGH_RATIO else round(sqrt(kept * broken), 1)


def sustainable_per_s(tries: Sequence[Try]) -> float | None:
    """The highest rate kept below every rate that was not; None where none was."""
    broken = _lowest_broken(tries)
    kept = [each.rate_per_s for each in tries if each.kept and (broken is None or each.rate_per_s < broken)]
    return max(kept, default=None)


def _lowest_broken(tries: Sequence[Try]) -> float | None:
    return min((each.rate_per_s for each in tries if not each.kept), default=None)
