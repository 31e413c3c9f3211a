"""A comparison's folder as `testbed compare --full` leaves it, from literal runs: for tests of what is said of it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from analysis.comparison import CellNote, Comparison, State, run_folders, write_comparison
from analysis.verdict import write_verdict
from tests.histories.writing import Run, clean_run, double_effect, drop_effect

LOAD_S = 12.0
EQUIVALENTS = [
    {"promise": "durability tier confirmed", "kafka": "acks=all", "rabbitmq": "publisher confirms=True"},
    {"promise": "largest message", "kafka": "max.message.bytes=2000000", "rabbitmq": "message_max_bytes=2000000"},
]


@dataclass
class Made:
    """A run's `run.json`, and the `verdict.json` that was computed from such a history."""

    run: dict[str, Any]
    verdict: dict[str, Any]


@cache
def _judged(damage: Callable[[Run], None] | None, fault_at_s: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    run = clean_run(orders=1_040, rate_per_s=80.0, fault_at_s=fault_at_s, warm_up_s=1.0, load_s=LOAD_S)
    if damage is not None:
        damage(run)
    with TemporaryDirectory() as folder:
        return run.run, dict(write_verdict(run.write(Path(folder))).fields)


def one(
    broker: str, scenario: str, sets: Sequence[str] = (), seed: int = 1, slow: float = 1.0,
    fault_at_s: float | None = None, damage: Callable[[Run], None] | None = None,
) -> Made:  # fmt: skip
    """A run that bears a conclusion: long enough, enough samples, on schedule. `slow` stretches its latencies."""
    run, verdict = deepcopy(_judged(damage, fault_at_s))
    run |= {
        "broker": broker, "scenario": scenario, "seed": seed, "sets": ["load.duration_s=12", *sets],
        "equivalents": EQUIVALENTS, "question": "Does it hold?",
    }  # fmt: skip
    run["machine"] |= {"provider": "native", "work_per_s": 50.0 + seed / 10}
    verdict |= {"broker": broker, "scenario": scenario, "seed": seed}
    factor = slow * (1 + seed / 100)
    for found in verdict["latency_ms"].values():
        found |= {name: value * factor for name, value in found.items() if name != "count"}
    verdict["recovery_s"] = {name: after_s and after_s * factor for name, after_s in verdict["recovery_s"].items()}
    for word in sets:
        name, _, value = word.partition("=")
        if name.endswith("_strategy"):
            run["strategies"] |= {name.partition("_")[0]: value}
        if name == "load.rate_per_s":
            run["schedule"]["rate_per_s"] = float(value)
    return Made(run, verdict)


Wanted = tuple[Made, int, State]


def write(folder: Path, wanted: Sequence[Wanted], *left_out: CellNote, seed: int = 1) -> Comparison:
    """Runs in their cells, with `compare.json`."""
    notes = []
    for run, repeat, state in wanted:
        variant = [word for word in run.run["sets"] if not word.startswith("load.duration_s")]
        name = "+".join((run.run["scenario"], *variant))
        place = f"{run.run['broker']}/{name}/{repeat}"
        (folder / place).mkdir(parents=True)
        (folder / place / "run.json").write_bytes(orjson.dumps(run.run))
        (folder / place / "verdict.json").write_bytes(orjson.dumps(run.verdict))
        notes.append(
            CellNote(part="headline", name=name, broker=run.run["broker"], repeat=repeat, folder=place, state=state)
        )
    comparison = Comparison(
        kind="full", seed=seed, budget_s=5400, spent_s=5000, sustainable_per_s={"kafka": 400.0, "rabbitmq": 283.0},
        cells=(*notes, *left_out),
    )  # fmt: skip
    write_comparison(folder, comparison)
    return comparison


def small_matrix(folder: Path) -> Comparison:
    """Three repeats of one case, a fault, two rates, two naive strategies that break something, a step of the ladder,
    and a cell left out."""
    wanted: list[Wanted] = []
    for broker, slow in (("kafka", 2.0), ("rabbitmq", 1.0)):
        wanted += [(one(broker, "steady", seed=seed, slow=slow), seed, "held") for seed in (1, 2, 3)]
        wanted.append((one(broker, "kill-mid-publish", fault_at_s=4.0, slow=slow), 1, "held"))
        wanted += [
            (one(broker, "steady", [f"load.rate_per_s={rate}"], slow=slow * rate / 50), 1, "held") for rate in (20, 150)
        ]
        wanted.append(
            (one(broker, "relay-crash", ["consume_strategy=none"], fault_at_s=4.0, damage=double_effect), 1, "held")
        )
        wanted.append(
            (one(broker, "kill-mid-publish", ["publish_strategy=direct-after-commit"], damage=drop_effect), 1, "held")
        )
        wanted.append((one(broker, "ladder"), 1, "held"))
    left = CellNote(part="scenarios", name="soak", broker="kafka", repeat=1, folder="kafka/soak/1", state="left out",
                    why="the budget did not reach it")  # fmt: skip
    return write(folder, wanted, left)


def folders_of(folder: Path, comparison: Comparison) -> list[Path]:
    return run_folders(folder, comparison)
