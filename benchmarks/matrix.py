"""Which experiments make a comparison, in which order, and which of them are done already. Runs none of them.

Brokers alternate: what drifts on the machine while the matrix runs (heat, a neighbour) meets both alike.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.scenario import Scenario, load_scenario

BROKERS = ("kafka", "rabbitmq")
QUICK = ("kill-mid-publish",)
PART_S = 24.0
"""What a cell takes beside its load: start of services and roles, drain, check."""


class Cell(NamedTuple):
    scenario: Scenario
    broker: str
    repeat: int

    def folder(self, out: Path) -> Path:
        return out / self.broker / self.scenario.name / str(self.repeat)

    def seed(self, first: int) -> int:
        """The same for both brokers: same arrivals, same choices, same faults."""
        return first + self.repeat - 1

    @property
    def expected_s(self) -> float:
        return self.scenario.load.warm_up_s + self.scenario.load.duration_s + PART_S


def cells(scenarios: Sequence[str], repeats: int = 1) -> list[Cell]:
    """In running order: the broker that goes first alternates from one pair to the next."""
    order = []
    for repeat in range(1, repeats + 1):
        for number, name in enumerate(scenarios):
            pair = BROKERS if (repeat + number) % 2 else BROKERS[::-1]
            order += [Cell(load_scenario(name), broker, repeat) for broker in pair]
    return order


def is_done(cell: Cell, out: Path, first_seed: int) -> bool:
    """Whether its folder holds a finished run of this very scenario and seed."""
    try:
        run = json.loads((cell.folder(out) / "run.json").read_text())
        verdict = json.loads((cell.folder(out) / "verdict.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    same_load = all(run["schedule"].get(name) == value for name, value in cell.scenario.load.model_dump().items())
    return bool(run["seed"] == cell.seed(first_seed) and same_load and verdict["verdict"] != "unknown")
