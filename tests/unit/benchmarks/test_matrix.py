"""The matrix of a comparison as data: what is in it, in which order, and what a budget cuts."""

from itertools import pairwise
from pathlib import Path

import pytest

from analysis.ladder import STEPS
from benchmarks.matrix import (
    BROKERS,
    CLAIMED,
    HEADLINE,
    LADDER,
    LAST,
    MORE_STRATEGIES,
    REPEATS,
    STRATEGIES,
    SWEEP,
    Cell,
    Pair,
    fits,
    full,
    quick,
    shortened,
)
from benchmarks.scenario import load_scenario, names
from benchmarks.sustainable import Try, next_rate_per_s, sustainable_per_s
from testbed.experiments import prepare

CELLS = [cell for pair in full(400.0) for cell in pair.cells]


def of(part: str, broker: str = "kafka") -> list[Cell]:
    return [cell for cell in CELLS if cell.part == part and cell.broker == broker]


def test_the_full_matrix_holds_every_scenario_that_is_supplied() -> None:
    assert {cell.scenario.name for cell in CELLS} == set(names())


def test_headline_scenarios_are_repeated_and_everything_else_is_measured_once() -> None:
    repeats = {name: [cell.repeat for cell in of("headline") if cell.scenario.name == name] for name in HEADLINE}
    assert repeats == {name: list(range(1, REPEATS + 1)) for name in HEADLINE}
    assert {cell.repeat for cell in CELLS if cell.part != "headline"} == {1}


def test_the_broker_that_goes_first_alternates_over_the_repeats_of_a_case() -> None:
    for name in HEADLINE:
        first = [pair.cells[0].broker for pair in full(400.0)
                 if pair.cells[0].part == "headline" and pair.cells[0].scenario.name == name]  # fmt: skip
        assert all(one != next_one for one, next_one in pairwise(first)), (name, first)


def test_both_brokers_get_the_same_seed_load_and_settings() -> None:
    for pair in full(400.0):
        assert len({(cell.scenario.name, cell.sets, cell.repeat, cell.seed(7)) for cell in pair.cells}) == 1


def test_the_sweep_goes_from_a_hundredth_to_beyond_the_sustainable_rate() -> None:
    rates = [float(cell.variant[0].partition("=")[2]) for cell in of("rate sweep")]
    assert rates == pytest.approx([400 * share for share in SWEEP])
    assert [cell.overload for cell in of("rate sweep")] == [share >= 1 for share in SWEEP]


def test_both_brokers_alone_are_loaded_at_three_rates_up_to_one_that_must_find_the_limit() -> None:
    for broker in BROKERS:
        cells = of("broker level", broker)
        assert [cell.variant for cell in cells] == [(), ("load.rate_per_s=20000",), ("load.rate_per_s=50000",)]
        assert [cell.overload for cell in cells] == [False, True, True]
        assert {cell.load_s for cell in cells} == {18}


def test_without_a_sustainable_rate_there_is_no_sweep() -> None:
    assert not [cell for pair in full(None) for cell in pair.cells if cell.part == "rate sweep"]


def test_what_is_worth_most_comes_first_and_the_longest_last() -> None:
    parts = list(dict.fromkeys(cell.part for cell in CELLS))
    assert parts[:3] == ["headline", "rate sweep", "tiers, queue types and clients"]
    assert CELLS[-1].scenario.name == LAST[-1]
    # An interval of every headline case is worth more than the fourth repeat of one.
    fourth = next(n for n, cell in enumerate(CELLS) if cell.part == "headline" and cell.repeat == 4)
    assert CELLS.index(of("strategies")[0]) < fourth


def test_the_five_steps_of_the_ladder_stand_together_after_the_other_strategies_and_before_what_claims_need() -> None:
    pairs = full(400.0)
    places = [n for n, pair in enumerate(pairs) if pair.cells[0].scenario.name == "ladder"]
    assert [pairs[n].cells[0].variant for n in places] == [step.sets for step in STEPS]
    assert places == list(range(places[0], places[0] + 5))
    assert pairs[places[0] - 1].cells[0].variant == MORE_STRATEGIES[-1].sets
    assert pairs[places[-1] + 1].cells[0].variant == CLAIMED[0].sets
    assert {len(pairs[n].cells) for n in places} == {2}


def test_of_the_ladders_steps_only_those_without_inbox_or_outbox_are_predicted_to_break_something() -> None:
    assert [(cell.shows, cell.allows) for cell in of("the ladder")] == [
        (("lost", "duplicated_effects"), ("out_of_order",)),
        (("duplicated_effects",), ("out_of_order",)),
        ((), ()),
        ((), ()),
        ((), ()),
    ]
    assert {cell.load_s for cell in of("the ladder")} == {25}


def test_every_cell_can_be_prepared_and_takes_as_long_as_it_says() -> None:
    for cell in CELLS:
        scenario, settings = prepare(cell.scenario.name, cell.broker, cell.seed(1), list(cell.sets))
        assert settings.broker == cell.broker
        assert scenario.load.warm_up_s + scenario.load.duration_s == cell.load_s, cell.name


def test_no_two_cells_share_a_folder() -> None:
    folders = [cell.folder(Path("out")) for cell in CELLS]
    assert len(set(folders)) == len(folders)
    assert Path("out/kafka/steady+durability=fsynced/1") in folders


def test_each_predicted_anomaly_is_one_that_a_verdict_counts() -> None:
    known = {"lost", "duplicated_effects", "duplicated_on_wire", "out_of_order", "phantom"}
    assert {
        name for factor in (*STRATEGIES, *MORE_STRATEGIES, *LADDER) for name in (*factor.shows, *factor.allows)
    } <= known


def test_a_shortened_scenario_keeps_its_faults_and_time_to_recover_from_them() -> None:
    assert shortened(load_scenario("kill-mid-publish")) == ("load.warm_up_s=3", "load.duration_s=24")
    assert shortened(load_scenario("lost-confirm")) == ("load.warm_up_s=3", "load.duration_s=30")
    assert shortened(load_scenario("spike")) == ()


def test_what_does_not_fit_the_budget_is_left_out_and_a_shorter_pair_after_it_may_fit() -> None:
    pairs = quick()
    (pair,) = pairs
    needed_s = pair.expected_s(overhead_s=10)
    assert needed_s == 2 * (45 + 10)
    assert fits(pair, 0, None, 10)
    assert fits(pair, 50, 50 + needed_s, 10)
    assert not fits(pair, 50, 49 + needed_s, 10)
    assert fits(Pair(pair.cells[:1]), 50, 49 + needed_s, 10)


def test_the_quick_comparison_is_one_scenario_on_each_broker() -> None:
    assert [(cell.name, cell.broker) for pair in quick() for cell in pair.cells] == [
        ("kill-mid-publish", "kafka"), ("kill-mid-publish", "rabbitmq"),
    ]  # fmt: skip
    assert BROKERS == ("kafka", "rabbitmq")


def search(true_rate_per_s: float) -> tuple[float | None, int]:
    """What the search finds for a system that keeps exactly that rate, and after how many tries."""
    tries: list[Try] = []
    while (rate := next_rate_per_s(tries)) is not None:
        tries.append(Try(rate, kept=rate <= true_rate_per_s))
        assert len(tries) < 20
    return sustainable_per_s(tries), len(tries)


@pytest.mark.parametrize("true_rate_per_s", [13, 55, 199, 201, 437, 1000, 7000])
def test_the_search_ends_below_the_sustainable_rate_and_within_a_fifth_of_it(true_rate_per_s: float) -> None:
    found, tries = search(true_rate_per_s)
    assert found is not None
    assert found <= true_rate_per_s <= found * 1.2
    assert tries <= 12


def test_a_system_that_keeps_no_rate_has_none_and_one_that_keeps_all_is_not_tried_for_ever() -> None:
    assert search(1)[0] is None
    assert search(10**9)[0] == 12_800


def test_a_rate_kept_above_one_that_was_not_is_luck() -> None:
    assert sustainable_per_s([Try(200, True), Try(300, False), Try(400, True)]) == 200
