"""When each arrival is due: an open-loop schedule, pure and seeded. Same seed, same instants, on every broker.

Poisson arrivals at a changing rate by thinning (Lewis and Shedler, Naval Research Logistics 26, 1979).
"""

import math
import random
from collections.abc import Iterator

from benchmarks.scenario import Load


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
