"""A failing schedule gets shorter and still fails; nothing is asked twice; the answer cannot be shortened further."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from faults.schedule import Drawn
from faults.shrinking import shrink

NAMES = ("sigkill", "pause", "reset", "relay-crash", "consumer-kill")


def schedule(*names: str, for_s: float = 0.0) -> list[Drawn]:
    return [Drawn(name, 10.0 * n, for_s) for n, name in enumerate(names)]


class Oracle:
    """Fails whenever all of these faults are there, and remembers what it was asked."""

    def __init__(self, *guilty: str, at_least_s: float = 0.0) -> None:
        self.guilty = set(guilty)
        self.at_least_s = at_least_s
        self.asked: list[tuple[Drawn, ...]] = []

    def __call__(self, part: Sequence[Drawn]) -> bool:
        self.asked.append(tuple(part))
        long_enough = {fault.fault for fault in part if fault.for_s >= self.at_least_s}
        return self.guilty <= long_enough


def test_the_one_guilty_fault_of_many_is_found() -> None:
    oracle = Oracle("reset")
    found = shrink(schedule("sigkill", "pause", "relay-crash", "consumer-kill", "reset", "latency"), oracle)
    assert [fault.fault for fault in found] == ["reset"]
    assert found[0].at_s == 40.0


def test_two_faults_that_fail_only_together_both_stay() -> None:
    found = shrink(
        schedule("sigkill", "pause", "reset", "relay-crash", "consumer-kill"), Oracle("sigkill", "relay-crash")
    )
    assert [fault.fault for fault in found] == ["sigkill", "relay-crash"]


def test_a_fault_that_lasts_is_made_as_short_as_still_fails() -> None:
    found = shrink(schedule("sigkill", "pause", for_s=8.0), Oracle("pause", at_least_s=2.0))
    assert found == [Drawn("pause", 10.0, 2.0)]


def test_what_fails_without_any_fault_shrinks_to_none() -> None:
    assert shrink(schedule("sigkill", "pause"), Oracle()) == []


@settings(max_examples=200, deadline=None)
@given(names=st.permutations(NAMES), guilty=st.sets(st.sampled_from(NAMES), min_size=1))
def test_any_set_of_guilty_faults_is_left_alone_and_no_schedule_is_run_twice(
    names: list[str], guilty: set[str]
) -> None:
    oracle = Oracle(*guilty)
    found = shrink(schedule(*names), oracle)
    assert {fault.fault for fault in found} == guilty
    assert len(oracle.asked) == len(set(oracle.asked))
    assert len(oracle.asked) <= 2 * len(names) ** 2
