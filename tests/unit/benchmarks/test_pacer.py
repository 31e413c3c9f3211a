"""Arrivals: the same for the same seed, in order, at the rate that was asked for."""

from itertools import islice, pairwise

import pytest

from benchmarks.pacer import arrivals, follow, rate_at, repeated
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


@pytest.mark.parametrize("shape", ["constant", "ramp", "spike", "wave"])
def test_a_shape_comes_again_and_a_late_source_joins_where_it_then_is(shape: str) -> None:
    wanted = load(shape=shape, warm_up_s=0)
    twice = [*arrivals(wanted, 3), *(50 + at_s for at_s in arrivals(wanted, 4))]
    assert list(islice(repeated(wanted, 3, 0), len(twice))) == twice
    late = [at_s for at_s in twice if at_s >= 63.5]
    assert list(islice(repeated(wanted, 3, 63.5), len(late))) == late


class Server:
    """A clock that only sleeping and a stall move, and what was handed over at each of its instants."""

    def __init__(self, room: int = 1_000) -> None:
        self.now_ns = 1_000_000_000
        self.room = room
        self.sent: list[tuple[str, int, int]] = []
        self.skipped: list[tuple[str, int]] = []
        self.stalls_s: dict[str, float] = {}

    def follow(self, *due_s: float) -> None:
        follow(
            [(f"a{number}", at_s) for number, at_s in enumerate(due_s)],
            1_000_000_000,
            lambda: self.now_ns,
            self._sleep,
            lambda: len(self.sent) < self.room,
            self._send,
            lambda arrival, intended_ns: self.skipped.append((arrival, intended_ns)),
        )

    def _sleep(self, wait_s: float) -> None:
        self.now_ns += round(wait_s * 1e9)

    def _send(self, arrival: str, intended_ns: int) -> None:
        self.sent.append((arrival, intended_ns, self.now_ns))
        self._sleep(self.stalls_s.get(arrival, 0))


def test_each_arrival_is_sent_at_its_intended_time() -> None:
    server = Server()
    server.follow(0, 0.5, 0.5, 2)
    ns = [1_000_000_000, 1_500_000_000, 1_500_000_000, 3_000_000_000]
    assert server.sent == [(f"a{number}", at, at) for number, at in enumerate(ns)]


def test_after_a_stall_the_overdue_go_at_once_with_the_times_they_were_meant_for() -> None:
    server = Server()
    server.stalls_s["a0"] = 1.2
    server.follow(0, 0.5, 1, 2)
    assert server.sent[1:] == [
        ("a1", 1_500_000_000, 2_200_000_000),
        ("a2", 2_000_000_000, 2_200_000_000),
        ("a3", 3_000_000_000, 3_000_000_000),
    ]


def test_what_is_due_while_too_many_are_open_is_skipped_and_not_sent_later() -> None:
    server = Server(room=1)
    server.follow(0, 0.5, 2)
    assert [arrival for arrival, _, _ in server.sent] == ["a0"]
    assert server.skipped == [("a1", 1_500_000_000), ("a2", 3_000_000_000)]
