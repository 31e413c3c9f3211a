"""Draw a schedule of faults from a seed: pure, so the same seed gives the same schedule on every broker.

Faults follow one another, each in a slot of its own; what lasts ends in the first half of its slot, so that the rest of
it shows the recovery. Not here: striking (`injector`), making a failing schedule shorter (`shrinking`).
"""

import random
from collections.abc import Collection
from typing import NamedTuple

from faults.catalogue import FAULTS

SHORTEST_SLOT_S = 15.0
"""A killed Kafka needs about 12 s until it confirms again: the next fault must not meet a broker that is away."""
ON_BOTH_BROKERS = frozenset({"", "proxy", "relay"})


class Drawn(NamedTuple):
    fault: str
    at_s: float
    for_s: float


def drawable(absent: Collection[str] = ()) -> list[str]:
    """Names a random schedule may hold; `absent`: capabilities that this run lacks on either broker."""
    return [
        fault.name
        for fault in FAULTS.values()
        if fault.is_drawn and fault.needs in ON_BOTH_BROKERS and fault.needs not in absent
    ]


def random_schedule(seed: int, faults: int, duration_s: float, names: Collection[str]) -> list[Drawn]:
    """So many faults within the load phase, in order of time; times to a hundredth of a second.

    Raises ValueError when a slot would be shorter than `SHORTEST_SLOT_S`.
    """
    slot_s = duration_s / max(1, faults)
    if slot_s < SHORTEST_SLOT_S:
        raise ValueError(
            f"{faults} faults within {duration_s:g} s leave {slot_s:.1f} s each; "
            f"use load.duration_s >= {faults * SHORTEST_SLOT_S:g} or fewer faults"
        )
    choices = random.Random(f"faults {seed}")
    drawn = []
    for slot in range(faults):
        name = choices.choice(sorted(names))
        low, high = FAULTS[name].lasts_s
        at_s = slot * slot_s + choices.uniform(0.5, 0.2 * slot_s)
        drawn.append(Drawn(name, round(at_s, 2), round(min(choices.uniform(low, high), 0.5 * slot_s), 2)))
    return drawn
