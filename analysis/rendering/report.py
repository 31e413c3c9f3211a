"""One self-contained `report.html`, a `report.md`, a `report.json` and `charts/*.svg` from runs' folders; reading the
page loads nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.broker_level import Carried, beside, carried
from analysis.checkers.verdict import COUNTS, write_json
from analysis.claims import Answered, answered
from analysis.comparison import Comparison
from analysis.findings import Compared, Result, answer, by_case, cautions, compared, figure
from analysis.heat import Square, fault_of, squares
from analysis.ladder import Lesson, Rung, lessons, rungs
from analysis.limits import limits
from analysis.rendering import charts, content
from analysis.timing.latency import STAGES
from analysis.verdict import stored_verdict, write_verdict
from history.reader import BrokenHistory, read_run

LARGEST_BYTES = 6 * 2**20


def render(folders: Sequence[Path], out: Path, comparison: Comparison | None = None) -> Path:
    """Write `out` (HTML), and beside it the same name with .md and .json, and charts/. Returns `out`.

    A folder without a verdict is judged first. Raises BrokenHistory where one has no readable run.json, ValueError
    for no folder at all.
    """
    results = read_results(folders, comparison)
    out.parent.mkdir(parents=True, exist_ok=True)
    findings = find(results)
    page = arrange(results, findings, comparison)
    (out.parent / "charts").mkdir(exist_ok=True)
    for chart in (*page["overall"], *(chart for section in page["sections"] for chart in section["charts"])):
        (out.parent / "charts" / chart["file"]).write_text(charts.standalone(chart["svg"]), encoding="utf-8")
    for ending, html in ((".html", True), (".md", False)):
        text = _environment(html).get_template(f"report{ending}").render(page)
        out.with_suffix(ending).write_text(text, encoding="utf-8")
    write_json(out.with_suffix(".json"), for_programs(results, findings, comparison))
    return out


def read_results(folders: Sequence[Path], comparison: Comparison | None = None) -> list[Result]:
    """Every run with its verdict and, in a comparison, what it was run for."""
    if not folders:
        raise ValueError("a report needs at least one run's folder")
    cells = {cell.folder: cell for cell in comparison.cells} if comparison is not None else {}
    return [read_result(folder, folders, cells.get("/".join(folder.parts[-3:]))) for folder in folders]


def read_result(folder: Path, beside: Sequence[Path], cell: Any = None) -> Result:
    """A run and its verdict; its name is the part of its path that tells it from the others."""
    run = read_run(folder)
    verdict = stored_verdict(folder) or write_verdict(folder).fields
    missing = {"verdict", "counts", "latency_ms", "series", "curves", "faults", "measured_s"} - verdict.keys()
    if missing:
        raise BrokenHistory(f"verdict.json of {folder.name} lacks {', '.join(sorted(missing))}; write it again")
    return Result(_name(folder, beside), run, verdict, cell)


def _name(folder: Path, beside: Sequence[Path]) -> str:
    """Shortest tail of the path that no other folder shares: never a path of this machine."""
    parts = folder.resolve().parts
    others = [other.resolve().parts for other in beside if other.resolve() != folder.resolve()]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return folder.name


@dataclass(frozen=True)
class Findings:
    """What is said of the runs, on the page and in `report.json`."""

    answer: list[str]
    cautions: list[str]
    compared: list[Compared]
    beside: list[str]
    carried: list[Carried]
    squares: list[Square]
    rungs: list[Rung]
    lessons: list[Lesson]
    claims: list[Answered]
    limits: list[str]


def find(results: Sequence[Result]) -> Findings:
    """Once a report: the intervals take long."""
    rows, steps = compared(results), rungs(results)
    return Findings(
        answer=answer(results, rows),
        cautions=cautions(results),
        compared=rows,
        beside=beside(results),
        carried=carried(results),
        squares=squares(results),
        rungs=steps,
        lessons=lessons(steps),
        claims=answered(results),
        limits=limits(results),
    )


def arrange(results: Sequence[Result], findings: Findings, comparison: Comparison | None) -> dict[str, Any]:
    """All that the templates show."""
    shown = content.shown(results)
    sure = [row for row in findings.compared if row.estimate is not None]
    settings = [row for field in ("strategies", "schedule", "settings") for row in content.table(shown, field)]
    return {
        **vars(findings),
        "title": content.title(results),
        "compared": sure or findings.compared,
        "compared_once": [row for row in findings.compared if row.estimate is None] if sure else [],
        "comparison": comparison,
        "left_out": content.left_out(comparison) if comparison else [],
        "results": results,
        "sections": [_section(case, runs) for case, runs in content.detailed(results).items()],
        "overall": _overall(results, findings.squares),
        "columns": content.columns(results),
        "grouped": list(results) if len(results) <= content.SIDE_BY_SIDE else [],
        "counts": COUNTS,
        "meanings": content.MEANINGS,
        "books": content.books(results),
        "stages": STAGES,
        "equivalents": content.equivalents(results),
        "shown": shown,
        "settings": settings,
        "versions": content.table(shown, "versions") + content.table(shown, "machine"),
        "anomalies": content.anomalies(results),
        "again": content.again(comparison) if comparison else "",
        "lines": [(result, content.reproduce(result)) for result in results],
        "dark_rules": Markup(charts.DARK_RULES),
    }


def _overall(results: Sequence[Result], squares: Sequence[Square]) -> list[dict[str, str]]:
    """Charts over all cases."""
    plain = [result for result in results if not result.naive]
    swept = [
        result for result in plain
        if {word.partition("=")[0] for word in result.variant} <= {"load.rate_per_s"} and not result.verdict["faults"]
        and result.run.scenario == "steady"
    ]  # fmt: skip
    untouched = [result for result in plain if not result.variant] or plain
    cases = by_case(untouched)
    cheapest = cases.get("steady") or next(iter(cases.values()), [])
    # Most faults meet the default only: the table has them, the picture compares.
    tried = {fault_of(result) for result in results if result.naive}
    heat = [square for square in squares if square.fault in tried]
    drawn = [
        ("rates", "Latency from request to effect by the rate of orders; solid p50, dashed p99", charts.against_rate(
            swept, "request_to_apply", "Latency against rate")),
        ("faults", "Strategies against faults: what each broke", charts.heat_map(heat, "Strategies against faults")),
        ("recovery", "Seconds from a fault until messages were confirmed and applied again, a point a run",
            charts.recoveries(untouched, "Recovery by fault")),
        ("costs", f"CPU a million confirmed messages in {cheapest[0].case if cheapest else ''}", charts.costs(
            content.pictured(cheapest), "CPU a million messages")),
    ]  # fmt: skip
    return [
        {"name": name, "file": f"{name}.svg", "caption": caption, "svg": svg} for name, caption, svg in drawn if svg
    ]


def _section(case: str, runs: list[Result]) -> dict[str, Any]:
    pictured = content.pictured(runs)
    drawn = [
        ("applied", "Effects committed each second", charts.over_time(
            pictured, "applied_per_s", f"{case}: effects committed each second", "per second")),
        ("received", "Messages received each second", charts.over_time(
            pictured, "received_per_s", f"{case}: messages received each second", "per second")),
        ("latency", "Slowest 1 % of each second (p99, from the intended time to the end)", charts.over_time(
            pictured, "latency_p99_ms", f"{case}: p99 latency of each second", "ms", log=True)),
        ("lag", "Messages that groups had not acked yet", charts.over_time(
            pictured, "lag_messages", f"{case}: lag over time", "messages")),
        ("outbox", "Messages waiting in the outbox", charts.over_time(
            pictured, "outbox_messages", f"{case}: outbox depth over time", "messages")),
        ("percentiles", "How long from commit to effect, by how rare it is", charts.percentiles(
            runs, "commit_to_apply", f"{case}: latency percentiles from commit to effect")),
        ("stages", "Where a message's time goes", charts.stages(
            pictured, STAGES, f"{case}: stages from p50 to p99")),
    ]  # fmt: skip
    prefix = re.sub(r"[^a-z0-9]+", "-", case.lower()).strip("-")
    return {
        "case": case,
        "id": f"case-{prefix}",
        "in_contents": not runs[0].variant,
        "question": next((q for run in runs if (q := (run.run.model_extra or {}).get("question"))), ""),
        "runs": runs,
        "pictured": [run.name for run in pictured] if len(pictured) < len(runs) else [],
        "charts": [
            {"file": f"{prefix}-{name}.svg", "caption": caption, "svg": svg} for name, caption, svg in drawn if svg
        ],
    }


def for_programs(results: Sequence[Result], findings: Findings, comparison: Comparison | None) -> dict[str, Any]:
    """`report.json`: what the report says, and of each run what can be compared; no lives and no series."""
    left = ("series", "curves", "lives", "groups")
    return {
        "format": 1,
        "answer": findings.answer,
        "cautions": findings.cautions,
        "compared": [
            {**row._asdict(), "estimate": vars(row.estimate) if row.estimate else None, "difference": row.difference}
            for row in findings.compared
        ],
        "beside": findings.beside,
        "carried": [row._asdict() for row in findings.carried],
        "ladder": {
            "steps": [{**rung._asdict(), "step": rung.step.name, "row": rung.step.row} for rung in findings.rungs],
            "lessons": [
                {**lesson._asdict(), "rungs": [rung.step.name for rung in lesson.rungs]} for lesson in findings.lessons
            ],
        },
        "claims": [claim._asdict() for claim in findings.claims],
        "limits": findings.limits,
        "comparison": comparison.model_dump(mode="json") if comparison else None,
        "runs": [
            {
                "name": result.name,
                "case": result.case,
                "started_at": result.run.started_at,
                "git_revision": result.run.git_revision,
                "versions": result.run.versions,
                "machine": result.run.machine,
                "reproduce": content.reproduce(result),
                **{name: value for name, value in result.verdict.items() if name not in left},
                "anomalies": [
                    {name: value for name, value in anomaly.items() if name != "first"}
                    for anomaly in result.verdict["anomalies"]
                ],
            }
            for result in results
        ],
    }


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis.rendering"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure_or_text
    environment.filters["cell"] = cell
    return environment


def figure_or_text(value: object) -> str:
    """A dash for none."""
    if value is None:
        return "–"
    return figure(value) if isinstance(value, int | float) else str(value)


def cell(value: object) -> str:
    """Text that cannot break out of a Markdown table."""
    return re.sub(r"\s+", " ", str(value)).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
