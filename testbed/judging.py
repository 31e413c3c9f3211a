"""`testbed verify`, `explain` and `report`: from a run's files alone."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.checkers.evidence import Moment, find_id, lives
from analysis.checkers.facts import load
from analysis.comparison import read_comparison, run_folders
from analysis.rendering.report import render
from analysis.verdict import compute_verdict, differences, stored_verdict
from history.reader import BrokenHistory

Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A run's folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the lead command line."""
    app.command()(verify)
    app.command()(explain)
    app.command()(report)


def verify(folder: Folder) -> None:
    """Compute a run's verdict again from its files; exit 0 valid, 1 invalid, 2 unknown."""
    verdict = compute_verdict(folder)
    fields = verdict.fields
    typer.echo(f"{fields['broker']} {fields['scenario']} seed {fields['seed']}: {verdict.word}")
    for reason in fields["reasons"]:
        typer.echo(f"  because {reason}")
    shown = {name: count for name, count in fields["counts"].items() if count}
    typer.echo("  " + (", ".join(f"{name} {count}" for name, count in shown.items()) or "nothing was counted"))
    for anomaly in fields["anomalies"]:
        ids = ", ".join(finding["id"] for finding in anomaly["first"][:3])
        mark = "forbidden" if anomaly["forbidden"] else "allowed"
        typer.echo(f"  {anomaly['name']} {anomaly['count']} ({mark}), e.g. {ids}")
    _compare(folder, fields)
    raise typer.Exit(verdict.exit_code)


def _compare(folder: Path, computed: dict[str, object]) -> None:
    try:
        stored = stored_verdict(folder)
    except BrokenHistory as error:
        typer.echo(f"  {error}")
        return
    if stored is None:
        typer.echo("  no verdict.json to compare with")
        return
    found = differences(stored, computed)
    typer.echo("  verdict.json says the same" if not found else "  verdict.json says otherwise:")
    for line in found[:20]:
        typer.echo(f"    {line}")


def explain(
    folder: Folder, event_id: Annotated[str, typer.Argument(help="An event id, or a request's idempotency key.")]
) -> None:
    """Show one event's life: every line of the history and the ledger that speaks of it."""
    try:
        with load(folder) as facts:
            if find_id(facts, event_id) is None:
                typer.echo(f"nothing in {folder.name} speaks of {event_id}")
                raise typer.Exit(2)
            moments = lives(facts, [event_id])[event_id]
    except BrokenHistory as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(life_text(event_id, moments))


def report(
    folders: Annotated[
        list[Path], typer.Argument(exists=True, file_okay=False, help="Runs' folders, or a comparison's.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file; Markdown and charts are written beside it.")],
) -> None:
    """Write one self-contained report of these runs, or of a comparison."""
    try:
        comparison = read_comparison(folders[0]) if len(folders) == 1 else None
        written = render(run_folders(folders[0], comparison) if comparison else folders, out, comparison)
    except BrokenHistory as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{written} ({written.stat().st_size / 1024:,.0f} KiB)")


def life_text(event_id: str, moments: list[Moment]) -> str:
    """One line a moment: milliseconds since the first, step, group, outcome, who wrote it."""
    lines = [event_id]
    for moment in moments:
        at = "ledger" if moment.at_ms is None else f"{moment.at_ms:+.1f} ms"
        what = " ".join(part for part in (moment.step, moment.group, moment.outcome) if part)
        lines.append(f"  {at:>14}  {what:<60}  {moment.source}")
    return "\n".join(lines)
