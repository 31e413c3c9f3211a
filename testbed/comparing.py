"""`testbed compare`: the same experiments on both brokers, one at a time, then one report of them all."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from analysis.rendering.report import render
from analysis.verdict import write_verdict
from benchmarks.matrix import QUICK, cells, is_done
from testbed.experiments import COULD_NOT_RUN, Board, Sets, console, could_not_run, prepare, run_once, tell


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    out: Annotated[Path, typer.Option(help="Folder of the comparison; finished parts in it are not run again.")] = Path(
        "reports/compare"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="One scenario, once on each broker (the default).")] = True,
    seed: Annotated[int, typer.Option(help="The same arrivals and faults on both brokers.")] = 1,
    provider: Annotated[str, typer.Option(help="auto, native, docker or external.")] = "auto",
    sets: Sets = None,
) -> None:
    """Run the same experiments on both brokers, one at a time, and write report.html, report.md and charts.

    Exit 0 if every run kept its contract, 1 if one broke it, 2 if one could not tell.

    Example: `testbed compare --quick --out reports/today`
    """
    plan = cells(QUICK)
    verdicts = []
    with could_not_run(), Board() as board:
        for cell in plan:
            folder = cell.folder(out)
            if is_done(cell, out, seed):
                console.print(f"{cell.scenario.name} on {cell.broker}: done before, kept")
                verdicts.append(write_verdict(folder))
                continue
            shutil.rmtree(folder, ignore_errors=True)
            planned, settings = prepare(cell.scenario.name, cell.broker, cell.seed(seed), sets or [])
            verdicts.append(run_once(planned, settings, folder, provider, board, sets or []))
            tell(verdicts[-1], folder)
        written = render([cell.folder(out) for cell in plan], out / "report.html")
    console.print(f"report: {written}")
    raise typer.Exit(max((verdict.exit_code for verdict in verdicts), default=COULD_NOT_RUN))
