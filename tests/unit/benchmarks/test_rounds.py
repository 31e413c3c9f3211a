"""The comparison of two rates: medians, alternation, and an interval that admits what it cannot tell."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from benchmarks.parts.rounds import Interval, Result, as_document, bootstrap_median, compare_rounds, print_table


def replaying(rates: list[float], calls: list[str], name: str) -> Callable[[], float]:
    left = iter(rates)

    def one_round() -> float:
        calls.append(name)
        return next(left)

    return one_round


def test_the_order_swaps_from_pair_to_pair_after_a_warm_up_that_does_not_count() -> None:
    calls: list[str] = []
    ours = replaying([1e9, 200.0, 210.0, 190.0], calls, "ours")
    bare = replaying([1e-9, 100.0, 100.0, 100.0], calls, "bare")
    result = compare_rounds(ours, bare, rounds=3, seed=1)
    assert calls == ["ours", "bare", "ours", "bare", "bare", "ours", "ours", "bare"]
    assert (result.rate_per_s, result.baseline_rate_per_s, result.ratio) == (200.0, 100.0, 2.0)


def test_a_drifting_machine_changes_the_rates_and_not_the_ratio() -> None:
    drift = [1.0, 2.0, 4.0, 8.0, 16.0]
    ours = replaying([90.0 * d for d in drift], [], "ours")
    bare = replaying([100.0 * d for d in drift], [], "bare")
    result = compare_rounds(ours, bare, rounds=5, seed=1, warm_up_rounds=0)
    assert result.ratio == pytest.approx(0.9)
    assert result.interval == pytest.approx((0.9, 0.9))
    assert result.shows_difference


def test_an_interval_over_one_shows_no_difference() -> None:
    result = Result("x", 1.0, "bare", 1.0, 1.0, Interval(0.97, 1.04), 9)
    assert not result.shows_difference


def test_the_interval_is_the_same_for_the_same_seed_and_holds_the_median() -> None:
    ratios = [0.9, 1.1, 0.95, 1.0, 1.05]
    low, high = bootstrap_median(ratios, seed=7)
    assert bootstrap_median(ratios, seed=7) == (low, high)
    assert 0.9 <= low <= 1.0 <= high <= 1.1
    assert low < high


@pytest.mark.parametrize("rates", [[0.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
def test_a_round_that_moved_nothing_is_an_error_and_not_a_ratio(rates: list[float]) -> None:
    with pytest.raises(ValueError, match="moved nothing"):
        compare_rounds(replaying(rates, [], "o"), lambda: 1.0, rounds=3, seed=1, warm_up_rounds=0)


def test_two_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="3 or more"):
        compare_rounds(lambda: 1.0, lambda: 1.0, rounds=2, seed=1)


def test_the_document_has_the_names_of_the_interface_and_a_vendor_only_when_measured() -> None:
    plain = Result("publish-512", 90.0, "bare", 100.0, 0.9, Interval(0.8, 0.95), 5)
    document = as_document("adapter", "kafka", "kafka", [plain, plain.beside_vendor(120.0)])
    assert document["results"][0] == {
        "name": "publish-512",
        "rate_per_s": 90.0,
        "baseline": "bare",
        "baseline_rate_per_s": 100.0,
        "ratio": 0.9,
        "interval": [0.8, 0.95],
        "rounds": 5,
    }
    assert document["results"][1]["vendor_rate_per_s"] == 120.0
    assert document["results"][1]["vendor_ratio"] == 0.75
    page = io.StringIO()
    print_table(document, Console(file=page, width=160))
    assert "publish-512" in page.getvalue()
    assert "0.75" in page.getvalue()
    assert "ours /s" in page.getvalue()
    print_table({**document, "unit": "MB"}, Console(file=page, width=160))
    assert "ours MB/s" in page.getvalue()
    assert "baseline MB/s" in page.getvalue()
