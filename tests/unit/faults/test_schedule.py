"""A seed draws the same faults for both brokers, each in its own slot, none that a broker lacks."""

import pytest

from faults.catalogue import FAULTS
from faults.schedule import drawable, random_schedule


def test_a_seed_draws_the_same_schedule_each_time_and_another_seed_another() -> None:
    names = drawable()
    assert random_schedule(7, 5, 100, names) == random_schedule(7, 5, 100, list(reversed(names)))
    assert random_schedule(7, 5, 100, names) != random_schedule(8, 5, 100, names)


def test_no_fault_begins_before_the_one_before_has_ended_and_its_slot_is_half_over() -> None:
    for seed in range(200):
        drawn = random_schedule(seed, 4, 60, drawable())
        for slot, fault in enumerate(drawn):
            assert slot * 15 < fault.at_s <= slot * 15 + 3
            low, high = FAULTS[fault.fault].lasts_s
            assert min(low, 7.5) <= fault.for_s <= min(high, 7.5)


def test_every_fault_that_may_be_drawn_is_drawn_by_some_seed() -> None:
    drawn = {fault.fault for seed in range(60) for fault in random_schedule(seed, 4, 60, drawable())}
    assert drawn == set(drawable())


def test_what_one_broker_lacks_or_what_breaks_the_contract_by_itself_is_not_drawn() -> None:
    names = drawable()
    assert {"sigkill", "latency", "relay-pause", "duplicate-storm"} <= set(names)
    assert not {"memory-alarm", "disk-alarm", "poison", "api-crash-before-commit"} & set(names)
    assert "relay-crash" not in drawable(absent={"relay"})


def test_faults_that_would_meet_a_broker_still_away_are_refused_with_the_time_they_need() -> None:
    with pytest.raises(ValueError, match=r"load\.duration_s >= 75"):
        random_schedule(1, 5, 60, drawable())
