"""When each arrival is due, and sending it then: open loop, pure and seeded. Same seed, same instants, on every broker.

Poisson arrivals at a changing rate by thinning (Lewis and Shedler, Naval Research Logistics 26, 1979).
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from benchmarks.scenario import Load

Arrival = TypeVar("Arrival")


def rate_at(load: Load, at_s: float) -> float:
    """Intended arrivals a second at `at_s` of the load phase; the warm-up runs at the rate of its start."""
    share = min(max(at_s / load.duration_s, 0.0), 1.0)
    match load.shape:
        case "constant":
            return load.rate_per_s
        case "ramp":
            return load.rate_per_s * max(0.05, share)
        case "spike":
            return load.rate_per_s * (1.0 if 0.4 <= share < 0.6 else 0.2)
        case "wave":
            return load.rate_per_s * (0.6 - 0.4 * math.cos(2 * math.pi * share))


def arrivals(load: Load, seed: int) -> Iterator[float]:
    """Due times in seconds, ascending, from -warm_up_s up to duration_s (the load phase starts at 0)."""
    rng = random.Random(seed)
    if load.arrivals == "even":
        at_s = -load.warm_up_s
        while at_s < load.duration_s:
            yield at_s
            at_s += 1 / rate_at(load, at_s)
        return
    at_s = -load.warm_up_s
    while (at_s := at_s + rng.expovariate(load.rate_per_s)) < load.duration_s:
        if rng.random() * load.rate_per_s <= rate_at(load, at_s):
            yield at_s


def repeated(load: Load, seed: int, from_s: float) -> Iterator[float]:
    """Due times without an end: the load phase, every `duration_s` again, from `from_s` seconds after its start."""
    for turn in itertools.count(int(from_s // load.duration_s)):
        began_s = turn * load.duration_s
        yield from (at_s for due_s in arrivals(load, seed + turn) if (at_s := began_s + due_s) >= from_s)


def follow(
    due: Iterable[tuple[Arrival, float]],
    start_ns: int,
    now_ns: Callable[[], int],
    sleep: Callable[[float], None],
    has_room: Callable[[], bool],
    send: Callable[[Arrival, int], None],
    skip: Callable[[Arrival, int], None],
) -> None:
    """Hand each arrival to `send` with its intended time (ns), no earlier than that and never waiting for an answer.

    One that is due while `has_room` is false goes to `skip`. A sender that fell behind sends what is overdue at once:
    the intended times stay as they were, so whoever counts from them sees the delay.
    """
    for arrival, at_s in due:
        intended_ns = start_ns + round(at_s * 1e9)
        if (wait_s := (intended_ns - now_ns()) / 1e9) > 0:
            sleep(wait_s)
        (send if has_room() else skip)(arrival, intended_ns)
