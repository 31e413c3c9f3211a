"""Make a failing schedule shorter while it still fails: fewer faults first, then faults that last less long.

Delta debugging (Zeller and Hildebrandt, IEEE Transactions on Software Engineering 28, 2002), over faults. Pure: what
fails is asked of the caller, who runs the experiment; no list is asked twice.
"""

from collections.abc import Callable, Sequence

from faults.schedule import Drawn

Fails = Callable[[Sequence[Drawn]], bool]

LEAST_S = 0.5
"""A fault that lasts is not tried shorter than this."""


def shrink(schedule: Sequence[Drawn], fails: Fails) -> list[Drawn]:
    """A schedule that fails and of which no single fault can be left out; the given one must fail.

    Answers of `fails` may waver (a crash hits another instant each time): then the result is one that did fail.
    """
    asked: dict[tuple[Drawn, ...], bool] = {}

    def still_fails(part: Sequence[Drawn]) -> bool:
        key = tuple(part)
        if key not in asked:
            asked[key] = fails(list(part))
        return asked[key]

    return _shorter_faults(_fewer_faults(list(schedule), still_fails), still_fails)


def _fewer_faults(schedule: list[Drawn], fails: Fails) -> list[Drawn]:
    parts = 2
    if fails([]):
        return []
    while len(schedule) > 1:
        size = -(-len(schedule) // parts)
        chunks = [schedule[n : n + size] for n in range(0, len(schedule), size)]
        rests = [[fault for fault in schedule if fault not in chunk] for chunk in chunks]
        # A single chunk that fails saves most; else what is left without one.
        smaller = next((part for part in (chunks + rests if parts > 2 else chunks) if fails(part)), None)
        if smaller is not None:
            # After a chunk: halves again. After a rest: as fine as before.
            parts = 2 if smaller in chunks else max(parts - 1, 2)
            schedule = smaller
        elif parts >= len(schedule):
            break
        else:
            parts = min(2 * parts, len(schedule))
    return schedule


def _shorter_faults(schedule: list[Drawn], fails: Fails) -> list[Drawn]:
    for n, fault in enumerate(schedule):
        while fault.for_s / 2 >= LEAST_S:
            shorter = fault._replace(for_s=round(fault.for_s / 2, 2))
            if not fails([*schedule[:n], shorter, *schedule[n + 1 :]]):
                break
            schedule[n] = fault = shorter
    return schedule
