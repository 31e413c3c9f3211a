"""The report's charts as SVG text that follows the reader's theme: light or dark, on the page or as a file.

Drawn by Vega-Lite without a browser. Colours are drawn as the light theme's and redefined by a style rule in dark, so
one picture serves both. Lines differ by dash as well as colour.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import altair
import vl_convert

from analysis.findings import Result
from analysis.heat import Square

INK, GRID, BAND = "#24292f", "#d8dee4", "#f3d9d6"
BROKER_COLOURS = {"kafka": "#0b62c4", "rabbitmq": "#b34700", "memory": "#6639ba"}
OTHER_COLOUR = "#57606a"
WORD_COLOURS = {"kept": "#cdeed5", "broke": "#f7c9c4", "unknown": "#f6e2b3"}
"""Of the heat map; its words say the same."""
DARK = {
    INK: "#d5dbe1",
    GRID: "#3b434c",
    BAND: "#5a2d2b",
    "#0b62c4": "#6cb0ff",
    "#b34700": "#ff9d57",
    "#6639ba": "#bc9cff",
    OTHER_COLOUR: "#9aa4ae",
    WORD_COLOURS["kept"]: "#1d4a2a",
    WORD_COLOURS["broke"]: "#6b2a26",
    WORD_COLOURS["unknown"]: "#57430f",
}

DARK_RULES = "".join(
    f'svg.chart [fill="{light}"]{{fill:{dark}}}svg.chart [stroke="{light}"]{{stroke:{dark}}}'
    for light, dark in DARK.items()
)
"""For `@media (prefers-color-scheme: dark)`."""

WIDTH = 620
SQUARE_PX = 112
"""Of the heat map: as wide as its longest usual word."""


def over_time(runs: Sequence[Result], column: str, title: str, unit: str, log: bool = False) -> str:
    """One line a run; time counts from its first fault (else from the load), so that brokers are aligned there."""
    rows: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    for run in runs:
        series, faults = run.verdict["series"], run.verdict["faults"]
        zero = faults[0]["from_s"] if faults else 0.0
        # A run at broker level has other columns than one of the shop.
        for t_s, value in zip(series["t_s"], series[column], strict=True) if column in series else ():
            if value is not None and (not log or value > 0):
                rows.append({"t": t_s - zero, "value": value, "broker": run.broker, "run": run.name})
        for fault in faults:
            end = fault["to_s"] if fault["to_s"] is not None else fault["from_s"] + 0.2
            bands.append({"from": fault["from_s"] - zero, "to": end - zero, "fault": fault["fault"]})
    if not rows:
        return ""
    when = "seconds after the fault" if bands else "seconds after the load began"
    scale = altair.Scale(type="log") if log else altair.Scale(zero=True)
    lines = (
        altair.Chart(_data(rows))
        .mark_line(interpolate="linear", strokeWidth=2)
        .encode(
            x=altair.X("t:Q", title=when),
            y=altair.Y("value:Q", title=unit, scale=scale),
            detail="run:N",
            **_by_broker(rows),
        )
    )
    layers: list[Any] = [lines]
    if bands:
        # The longest band a fault covers what it did to either broker; each run's own times stand in the table.
        layers.insert(
            0,
            altair.Chart(_data(bands))
            .mark_rect(color=BAND, opacity=0.5)
            .encode(x=altair.X("from:Q", title=when), x2="to:Q"),
        )
    return _svg(altair.layer(*layers).properties(width=WIDTH, height=200), title)


def percentiles(runs: Sequence[Result], stage: str, title: str) -> str:
    """Latency against how rare it is, both logarithmic: 90 %, 99 %, 99.9 % are equally far apart."""
    rows = [
        {"rarity": 100 / (100 - percentile), "ms": ms, "broker": run.broker, "run": run.name}
        for run in runs
        for percentile, ms in run.verdict["curves"].get(stage, [])
        if ms > 0
    ]
    if not rows:
        return ""
    labels = "'p' + format(100 - 100 / datum.value, '.6~r')"
    ticks = [1, 2, 10, 100, 1000, 10000]
    furthest = max(row["rarity"] for row in rows)
    chart = (
        altair.Chart(_data(rows))
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=altair.X(
                "rarity:Q",
                title="percentile",
                scale=altair.Scale(type="log"),
                axis=altair.Axis(values=[tick for tick in ticks if tick <= furthest], labelExpr=labels),
            ),
            y=altair.Y("ms:Q", title="ms", scale=altair.Scale(type="log")),
            detail="run:N",
            **_by_broker(rows),
        )
        .properties(width=WIDTH, height=220)
    )
    return _svg(chart, title)


def stages(runs: Sequence[Result], names: Sequence[str], title: str) -> str:
    """Where a message's time goes: from p50 to p99 of each stage, or to p90 where too few samples lie beyond p99; one
    bar a run, on a logarithmic axis.
    """
    rows = [
        {"stage": stage.replace("_", " "), "from": p50, "to": slow, "broker": run.broker, "run": run.name}
        for run in runs
        for stage in names
        if (p50 := run.latency_ms(stage, "p50"))
        and (slow := run.latency_ms(stage, "p99") or run.latency_ms(stage, "p90"))
    ]  # fmt: skip
    if not rows:
        return ""
    chart = (
        altair.Chart(_data(rows))
        .mark_bar(height={"band": 0.6})
        .encode(
            x=altair.X(
                "from:Q", title="ms, from p50 to p99 (p90 of fewer than 1,000 samples)", scale=altair.Scale(type="log")
            ),
            x2="to:Q",
            y=altair.Y("stage:N", title=None, sort=[name.replace("_", " ") for name in names]),
            yOffset="run:N",
            color=_by_broker(rows)["color"],
        )
        .properties(width=WIDTH - 80, height=altair.Step(14))
    )
    return _svg(chart, title)


def against_rate(runs: Sequence[Result], stage: str, title: str) -> str:
    """Latency of one stage by the planned rate: p50 and p99 of each broker, both axes logarithmic."""
    rows = [
        {"rate": run.run.schedule.rate_per_s, "ms": ms, "broker": run.broker, "percentile": percentile}
        for run in runs
        for percentile in ("p50", "p99")
        if run.run.schedule.rate_per_s and (ms := run.latency_ms(stage, percentile))
    ]
    if len({row["rate"] for row in rows}) < 2:
        return ""
    chart = (
        altair.Chart(_data(rows))
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=altair.X("rate:Q", title="orders a second, planned", scale=altair.Scale(type="log")),
            y=altair.Y("ms:Q", title="ms", scale=altair.Scale(type="log")),
            color=_by_broker(rows)["color"],
            strokeDash=altair.StrokeDash(
                "percentile:N",
                scale=altair.Scale(domain=["p50", "p99"], range=[[1, 0], [6, 3]]),
                legend=altair.Legend(title=None, orient="top", symbolType="stroke"),
            ),
        )
        .properties(width=WIDTH, height=220)
    )
    return _svg(chart, title)


def heat_map(squares: Sequence[Square], title: str) -> str:
    """Strategies down, faults across, a block a broker; the words say what the colours show."""
    if not squares:
        return ""
    rows = [{**square._asdict(), "colour": WORD_COLOURS[square.word]} for square in squares]
    faults, strategies = (list(dict.fromkeys(row[name] for row in rows)) for name in ("fault", "strategy"))
    base = altair.Chart(_data(rows)).encode(
        x=altair.X("fault:N", title=None, sort=faults, axis=altair.Axis(labelAngle=-35, labelLimit=220)),
        y=altair.Y("strategy:N", title=None, sort=strategies, axis=altair.Axis(labelLimit=220)),
    )
    boxes = base.mark_rect(stroke=GRID).encode(color=altair.Color("colour:N", scale=None))
    texts = base.mark_text(fontSize=9, color=INK, limit=SQUARE_PX - 6).encode(text="text:N")
    blocks = [
        altair.layer(boxes, texts)
        .transform_filter(altair.datum.broker == broker)
        .properties(title=broker, width=altair.Step(SQUARE_PX), height=altair.Step(26))
        for broker in sorted({square.broker for square in squares})
    ]
    return _svg(altair.vconcat(*blocks), title)


def recoveries(runs: Sequence[Result], title: str) -> str:
    """Seconds from each fault until messages were confirmed and applied again: a point a run, a line over repeats."""
    rows = [
        {"fault": f"{fault} ({run.run.scenario})", "s": after_s, "broker": run.broker}
        for run in runs
        for fault, after_s in run.verdict["recovery_s"].items()
        if after_s is not None and after_s > 0
    ]
    if not rows:
        return ""
    names = list(dict.fromkeys(row["fault"] for row in rows))
    base = altair.Chart(_data(rows)).encode(
        y=altair.Y("fault:N", title=None, sort=names, axis=altair.Axis(labelLimit=320)),
        yOffset="broker:N",
        color=_by_broker(rows)["color"],
        shape=altair.Shape(
            "broker:N",
            scale=altair.Scale(domain=sorted({row["broker"] for row in rows})),
            legend=altair.Legend(title=None, orient="top"),
        ),
    )
    seconds = altair.X("s:Q", title="seconds", scale=altair.Scale(type="log"))
    points = base.mark_point(filled=True, size=45, opacity=1).encode(x=seconds)
    spans = base.mark_rule(strokeWidth=2).encode(x=altair.X("min(s):Q", title="seconds"), x2="max(s):Q")
    return _svg(altair.layer(spans, points).properties(width=WIDTH - 220, height=altair.Step(13)), title)


def costs(runs: Sequence[Result], title: str) -> str:
    """CPU seconds a million confirmed messages, by part; of one run a broker."""
    rows = [
        {"part": part, "s": use["cpu_s_per_million"], "broker": run.broker}
        for run in runs
        for part, use in run.verdict["resources"].items()
        if part != "driver"
    ]
    if not rows:
        return ""
    chart = (
        altair.Chart(_data(rows))
        .mark_bar(height={"band": 0.8})
        .encode(
            x=altair.X("s:Q", title="CPU seconds a million confirmed messages"),
            y=altair.Y("part:N", title=None, sort=["broker", "database", "relay", "consumer", "api"]),
            yOffset="broker:N",
            color=_by_broker(rows)["color"],
        )
        .properties(width=WIDTH - 80, height=altair.Step(14))
    )
    return _svg(chart, title)


def _data(rows: Sequence[Mapping[str, Any]]) -> Any:
    return altair.Data(values=list(rows))  # type: ignore[no-untyped-call]


def _by_broker(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = sorted({row["broker"] for row in rows})
    colours = [BROKER_COLOURS.get(name, OTHER_COLOUR) for name in names]
    dashes = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]]
    legend = altair.Legend(title=None, orient="top")
    return {
        "color": altair.Color("broker:N", scale=altair.Scale(domain=names, range=colours), legend=legend),
        "strokeDash": altair.StrokeDash(
            "broker:N",
            scale=altair.Scale(domain=names, range=[dashes[n % len(dashes)] for n in range(len(names))]),
            legend=legend,
        ),
    }


def _svg(chart: Any, title: str) -> str:
    configured = chart.configure(background="transparent", font="sans-serif").configure_view(stroke=GRID)
    configured = (
        configured.configure_axis(
            labelColor=INK, titleColor=INK, gridColor=GRID, domainColor=GRID, tickColor=GRID, titleFontWeight="normal"
        )
        .configure_legend(labelColor=INK, titleColor=INK)
        .configure_title(color=INK, anchor="start", fontSize=12)
    )
    return _titled(vl_convert.vegalite_to_svg(configured.to_dict()), title)


def _titled(svg: str, title: str) -> str:
    """Name the picture for those who cannot see it, and let it shrink with the page."""
    head = re.compile(r"<svg [^>]*>")
    box = re.search(r'viewBox="([^"]*)"', svg)
    if box is None:
        raise ValueError("the chart library drew no picture with a view box")
    width = box.group(1).split()[2]
    name = escape(title)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="{box.group(1)}" role="img" '
        f'style="width:100%;max-width:{width}px;height:auto" aria-label="{name}"><title>{name}</title>'
    )
    # Every mark would be announced one by one; the label above and the tables beside speak instead.
    inner = re.sub(r' (?:role|aria-[a-z]+|tabindex)="[^"]*"', "", head.sub("", svg, count=1))
    # Ids are shared by all pictures of a page.
    mark = re.sub(r"[^a-z0-9]+", "-", title.lower())
    inner = re.sub(r'id="([^"]+)"', rf'id="{mark}-\1"', inner)
    inner = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", inner)
    return opening + inner


def standalone(svg: str) -> str:
    """The same picture as a file of its own, with the dark colours inside."""
    style = f"<style>@media (prefers-color-scheme: dark){{{DARK_RULES}}}</style>"
    return svg.replace("</title>", f"</title>{style}", 1)
