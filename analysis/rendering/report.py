"""One self-contained `report.html`, a `report.md` and `charts/*.svg` from runs' folders; reading loads nothing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.checkers.verdict import COUNTS
from analysis.findings import Result, answer, by_scenario, cautions
from analysis.rendering import charts
from analysis.timing.latency import STAGES
from analysis.verdict import stored_verdict, write_verdict
from history.reader import BrokenHistory, read_run

LARGEST_BYTES = 6 * 2**20

MEANINGS = {
    "attempted": "requests sent, by idempotency key",
    "acknowledged": "answered with success",
    "unknown": "no answer, or one that says nothing",
    "unstored": "acknowledged, and not in the database",
    "committed": "events in the database",
    "delivered": "handed to a group at least once",
    "applied": "with an effect in the database",
    "ignored": "understood, nothing to do",
    "dead_lettered": "given up, kept with its reason",
    "parked": "held back by the relay",
    "lost": "committed, and without an end in a group",
    "unseen": "not there yet when the run ended",
    "phantom": "seen or applied, never committed",
    "recovered": "publish outcome unknown, yet delivered",
    "duplicated_on_wire": "deliveries beyond the first",
    "duplicated_effects": "effects beyond the first",
    "out_of_order": "applied after a newer one",
    "late_by_redrive": "the same, by a retried dead letter",
    "undelivered_effect": "applied, never seen delivered",
}


def render(folders: Sequence[Path], out: Path) -> Path:
    """Write `out` (HTML), and beside it the same name with .md and charts/. Returns `out`.

    A folder without a verdict is judged first. Raises BrokenHistory where one has no readable run.json, ValueError
    for no folder at all.
    """
    if not folders:
        raise ValueError("a report needs at least one run's folder")
    results = [read_result(folder, folders) for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    sections = [_section(scenario, runs) for scenario, runs in by_scenario(results).items()]
    drawn = {chart["file"]: chart["svg"] for section in sections for chart in section["charts"]}
    (out.parent / "charts").mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (out.parent / "charts" / name).write_text(charts.standalone(svg), encoding="utf-8")
    content = {
        "answer": answer(results),
        "cautions": cautions(results),
        "results": results,
        "sections": sections,
        "counts": COUNTS,
        "meanings": MEANINGS,
        "stages": STAGES,
        "settings": settings_table(results),
        "versions": _table(results, "versions") + _table(results, "machine"),
        "anomalies": _anomalies(results),
        "dark_rules": Markup(charts.DARK_RULES),
    }
    html = _environment(html=True).get_template("report.html").render(content)
    out.write_text(html, encoding="utf-8")
    out.with_suffix(".md").write_text(
        _environment(html=False).get_template("report.md").render(content), encoding="utf-8"
    )
    return out


def read_result(folder: Path, beside: Sequence[Path]) -> Result:
    """A run and its verdict; its name is the part of its path that tells it from the others."""
    run = read_run(folder)
    verdict = stored_verdict(folder) or write_verdict(folder).fields
    missing = {"verdict", "counts", "latency_ms", "series", "curves", "faults", "measured_s"} - verdict.keys()
    if missing:
        raise BrokenHistory(f"verdict.json of {folder.name} lacks {', '.join(sorted(missing))}; write it again")
    return Result(_name(folder, beside), run, verdict)


def _name(folder: Path, beside: Sequence[Path]) -> str:
    """Shortest tail of the path that no other folder shares: never a path of this machine."""
    parts = folder.resolve().parts
    others = [other.resolve().parts for other in beside if other.resolve() != folder.resolve()]
    for length in range(1, len(parts)):
        if all(other[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return folder.name


def settings_table(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Setting -> its value in each run, for every setting that any run names; strategies and schedule first."""
    rows: list[tuple[str, list[str]]] = []
    for group in ("strategies", "schedule", "settings"):
        rows += _table(results, group)
    return rows


def _table(results: Sequence[Result], field: str) -> list[tuple[str, list[str]]]:
    flat = []
    for result in results:
        value = getattr(result.run, field)
        flat.append(_flat(value if isinstance(value, dict) else value.model_dump()))
    names = list(dict.fromkeys(name for columns in flat for name in columns))
    return [(name, [columns.get(name, "–") for columns in flat]) for name in names]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = "–" if inner is None else str(inner)
    return found


def _section(scenario: str, runs: list[Result]) -> dict[str, Any]:
    drawn = [
        ("applied", "Effects committed each second", charts.over_time(
            runs, "applied_per_s", f"{scenario}: effects committed each second", "per second")),
        ("latency", "Slowest 1 % of each second (p99, from the intended time to the effect)", charts.over_time(
            runs, "latency_p99_ms", f"{scenario}: p99 latency of each second", "ms", log=True)),
        ("lag", "Messages that groups had not acked yet", charts.over_time(
            runs, "lag_messages", f"{scenario}: lag over time", "messages")),
        ("outbox", "Messages waiting in the outbox", charts.over_time(
            runs, "outbox_messages", f"{scenario}: outbox depth over time", "messages")),
        ("percentiles", "How long from commit to effect, by how rare it is", charts.percentiles(
            runs, "commit_to_apply", f"{scenario}: latency percentiles from commit to effect")),
        ("stages", "Where a message's time goes", charts.stages(
            runs, STAGES, f"{scenario}: stages from p50 to p99")),
    ]  # fmt: skip
    prefix = re.sub(r"[^a-z0-9]+", "-", scenario.lower()).strip("-")
    return {
        "scenario": scenario,
        "runs": runs,
        "charts": [
            {"file": f"{prefix}-{name}.svg", "caption": caption, "svg": svg} for name, caption, svg in drawn if svg
        ],
    }


def _anomalies(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each anomaly of each run with the lives of its first ids."""
    return [
        {
            "run": result.name,
            "name": anomaly["name"],
            "count": anomaly["count"],
            "forbidden": anomaly["forbidden"],
            "meaning": MEANINGS[anomaly["name"]],
            "first": [
                {**finding, "life": result.verdict["lives"].get(finding["id"], [])} for finding in anomaly["first"]
            ],
        }
        for result in results
        for anomaly in sorted(result.verdict["anomalies"], key=lambda found: not found["forbidden"])
    ]


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis.rendering"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["cell"] = cell
    return environment


def figure(value: object) -> str:
    """A number for people: thousands apart, three digits where it is small; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float) and value != int(value):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int | float):
        return f"{int(value):,}"
    return str(value)


def cell(value: object) -> str:
    """Text that cannot break out of a Markdown table."""
    return re.sub(r"\s+", " ", str(value)).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
