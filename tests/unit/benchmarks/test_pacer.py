"""Arrivals: the same for the same seed, in order, at the rate that was asked for."""

from itertools import pairwise

import pytest

from benchmarks.pacer import arrivals, rate_at
from benchmarks.scenario import Load


def load(**changes: object) -> Load:
    return Load.model_validate({"rate_per_s": 100, "warm_up_s": 5, "duration_s": 50, **changes})


@pytest.mark.parametrize("shape", ["constant", "ramp", "spike", "wave"])
@pytest.mark.parametrize("kind", ["poisson", "even"])
def test_the_same_seed_gives_the_same_ascending_arrivals_within_the_phases(shape: str, kind: str) -> None:
    wanted = load(shape=shape, arrivals=kind)
    due = list(arrivals(wanted, seed=3))
    assert due == list(arrivals(wanted, seed=3))
    assert all(before < after for before, after in pairwise(due))
    assert due[0] >= -5
    assert due[-1] < 50


def test_another_seed_gives_other_poisson_arrivals() -> None:
    assert list(arrivals(load(), 1)) != list(arrivals(load(), 2))


def test_poisson_arrivals_come_at_the_rate_asked_for() -> None:
    # 5,500 expected; five standard deviations of a Poisson count are 371.
    assert abs(len(list(arrivals(load(), 1))) - 5_500) < 371


def test_a_spike_is_five_times_the_calm_around_it() -> None:
    spike = load(shape="spike")
    assert [rate_at(spike, at_s) for at_s in (1, 25, 45)] == [20, 100, 20]


def test_a_ramp_ends_at_the_rate_asked_for() -> None:
    assert rate_at(load(shape="ramp"), 50) == 100
    assert rate_at(load(shape="ramp"), 25) == 50
