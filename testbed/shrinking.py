"""`testbed shrink`: run parts of a failing run's schedule again until no fault can be left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.scenario import Scenario, changed
from faults.schedule import Drawn
from faults.shrinking import shrink as shorter
from history.reader import read_run
from testbed.experiments import Board, could_not_run, run_once, tell
from testbed.settings import SettingError, Settings, read_settings

AFTER_LAST_FAULT_S = 15.0
"""Load that goes on after the last fault of a part: what it breaks shows within it, and the rest only costs time."""
console = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    app.command()(shrink)


def shrink(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The folder of an invalid run.")],
    out: Annotated[Path | None, typer.Option(help="Where the runs go; beside the folder where not given.")] = None,
    provider: Annotated[str, typer.Option(help="auto, native, docker or external.")] = "auto",
) -> None:
    """Find the shortest part of a run's faults with which it still breaks the same promise. Exit 0 when it was found.

    Example: `testbed shrink reports/20260101T101500Z-steady-kafka-7`
    """
    target = out or folder.with_name(f"{folder.name}-shrunk")
    with could_not_run(), Board() as board:
        scenario, settings = what_was_run(folder)
        broken = broken_promises(json.loads((folder / "verdict.json").read_text()))
        given = [word for word in read_run(folder).sets or [] if not word.startswith("faults=")]
        if not broken:
            raise SettingError(f"{folder} broke no promise: there is nothing to shrink")
        runs = 0

        def fails(part: Sequence[Drawn]) -> bool:
            nonlocal runs
            runs += 1
            verdict = run_once(
                part_of(scenario, part), settings, target / str(runs), provider, board, [*given, as_set(part)]
            )
            console.print(f"{runs}: {as_set(part)}")
            tell(verdict, target / str(runs))
            return bool(broken & broken_promises(verdict.fields))

        found = shorter([Drawn(fault.fault, fault.at_s, fault.for_s) for fault in scenario.faults], fails)
    (target / "shrunk.json").write_text(
        json.dumps({"broken": sorted(broken), "runs": runs, "faults": [fault._asdict() for fault in found]}, indent=2)
    )
    typer.echo(f"{', '.join(sorted(broken))} with {len(found)} of {len(scenario.faults)} faults, after {runs} runs:")
    words = [*(word for word in sets_of(folder) if not word.startswith("faults=")), as_set(found)]
    again = " ".join(f"--set {word}" for word in words)
    typer.echo(f"  testbed run {scenario.name} --broker {settings.broker} --seed {settings.seed} {again}")


def what_was_run(folder: Path) -> tuple[Scenario, Settings]:
    """From `run.json`. Raises SettingError where it was not written."""
    try:
        run = json.loads((folder / "run.json").read_text())
        plan, settings = run["plan"], run["settings"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError) as error:
        raise SettingError(f"{folder} holds no plan that could be run again: {error}") from error
    known = {name: value for name, value in settings.items() if name in Settings.model_fields}
    return Scenario.model_validate(plan), read_settings(**{**known, "broker": run["broker"]})


def sets_of(folder: Path) -> list[str]:
    """The `--set` words of the run."""
    return list(json.loads((folder / "run.json").read_text()).get("sets", []))


def broken_promises(verdict: dict[str, Any]) -> frozenset[str]:
    """Anomalies that the contract forbids, and invariants that do not hold."""
    anomalies = {anomaly["name"] for anomaly in verdict["anomalies"] if anomaly["forbidden"]}
    invariants = {name for name, found in verdict["invariants"].items() if found["passed"] is False}
    return frozenset(anomalies | invariants) if verdict["verdict"] == "invalid" else frozenset()


def part_of(scenario: Scenario, part: Sequence[Drawn]) -> Scenario:
    """The same load, seed and settings with these faults only; a constant load ends soon after the last of them."""
    at = {(fault.fault, fault.at_s): fault for fault in scenario.faults}
    faults = [{**at[fault.fault, fault.at_s].model_dump(), "for_s": fault.for_s} for fault in part]
    load = scenario.load.model_dump()
    if scenario.load.shape == "constant":
        last_s = max((fault.at_s + fault.for_s for fault in part), default=0.0)
        load["duration_s"] = min(load["duration_s"], last_s + AFTER_LAST_FAULT_S)
    return changed(scenario, faults=faults, load=load)


def as_set(part: Sequence[Drawn]) -> str:
    """As `--set` takes it."""
    return "faults=" + ",".join(f"{fault.fault}@{fault.at_s:g}+{fault.for_s:g}" for fault in part)
