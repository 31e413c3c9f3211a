"""Write docs/measured.md from reports/bench/*.json, which `testbed bench … --json` printed.

`python scripts/measured.py`; with --check nothing is written, and a difference exits 1. A bar that is missed, or whose
ratio's interval spans it, is said so.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "reports" / "bench"
PAGE = ROOT / "docs" / "measured.md"
RATE, RATIO, VENDOR = "rate_per_s", "ratio", "vendor_ratio"


class Bar(NamedTuple):
    """What one row must reach on each broker."""

    bench: str
    name: str
    figure: str
    at_least: Mapping[str, float]
    aim: Mapping[str, float]


def both(value: float) -> dict[str, float]:
    return {"kafka": value, "rabbitmq": value}


SIZES = ("512", "4096")
BARS: Sequence[Bar] = (
    *(
        Bar("adapter", f"{what}-{size}", RATIO, both(0.90), both(0.95))
        for what in ("publish", "receive")
        for size in SIZES
    ),
    *(Bar("adapter", f"{what}-{size}", VENDOR, {}, both(0.75)) for what in ("publish", "receive") for size in SIZES),
    Bar("relay", "outbox-leased", RATE, {"kafka": 30_000, "rabbitmq": 15_000}, {"kafka": 45_000, "rabbitmq": 20_000}),
    Bar("relay", "outbox-leased", RATIO, both(20), both(20)),
    Bar("relay", "10-keys", RATE, {"kafka": 20_000, "rabbitmq": 8_000}, {"kafka": 30_000, "rabbitmq": 14_000}),
    Bar("relay", "one-key-30%", RATIO, both(0.80), both(0.80)),
    Bar("relay", "two-processes", RATIO, both(1.0), both(1.0)),
    Bar("relay", "backlog-200000", RATIO, both(0.90), both(0.90)),
    Bar("relay", "old-events-10M", RATIO, both(0.90), both(0.90)),
    Bar("relay", "default-batch", RATIO, both(0.70), both(0.90)),
    Bar("inbox", "inbox", RATE, {"kafka": 30_000, "rabbitmq": 15_000}, {"kafka": 50_000, "rabbitmq": 25_000}),
    Bar("inbox", "inbox", RATIO, both(8), both(8)),
    Bar("api", "POST /api/v1/orders", RATIO, both(0.75), both(0.75)),
    Bar("history", "relay-recorded", RATIO, both(0.95), both(0.98)),
    Bar("history", "inbox-recorded", RATIO, both(0.95), both(0.98)),
    Bar("proxy", "proxy-MB", RATE, {"none": 200}, {}),
)


def page(documents: Sequence[dict[str, Any]]) -> str:
    """The whole of docs/measured.md."""
    told = "\n".join(_rows(documents))
    others = "\n".join(_others(documents))
    return f"""# What the parts do beside their bare baselines

Written by `python scripts/measured.py` from `reports/bench/`, which `testbed bench PART --broker B --json` filled: each
row the median of alternating rounds in one process run, with the 95 % bootstrap interval of the ratio. Two cores carry
everything: broker, database, client. *Reached* means the figure; where the interval of a ratio also spans the bar, that
is said. The bars are the project's own. *Code*: the revision that was measured, where the file keeps it. A rate is in
messages/s; that of `proxy`, which needs no broker, in MB/s.

| part | case | broker | figure | measured | interval | at least | aim | | code |
|---|---|---|---|---:|---:|---:|---:|---|---|
{told}

## Measured without a bar

| part | case | profile | rate, /s | beside | ratio | interval | code |
|---|---|---|---:|---|---:|---:|---|
{others}
"""


def _found(documents: Sequence[dict[str, Any]], bar: Bar) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for document in documents:
        if document["bench"] == bar.bench:
            yield from ((document, row) for row in document["results"] if row["name"] == bar.name)


def _rows(documents: Sequence[dict[str, Any]]) -> Iterator[str]:
    for bar in BARS:
        places = sorted({**bar.at_least, **bar.aim})
        found = list(_found(documents, bar))
        for broker in places:
            rows = [(document, row) for document, row in found if document["broker"] == broker and bar.figure in row]
            for document, row in rows:
                yield _row(bar, document, row)
            if not rows and bar.figure != VENDOR and not (bar.bench == "api" and broker == "rabbitmq"):
                yield f"| {bar.bench} | {bar.name} | {broker} | {bar.figure} | – | – | – | – | not measured | |"


def _row(bar: Bar, document: dict[str, Any], row: dict[str, Any]) -> str:
    broker, value = document["broker"], row[bar.figure]
    at_least, aim = bar.at_least.get(broker), bar.aim.get(broker)
    low, high = row["interval"]
    interval = f"{low:.2f}–{high:.2f}" if bar.figure == RATIO else ""
    cells = [bar.bench, bar.name, document["profile"], _kind(bar, document, row), _figure(value), interval]
    told = [*cells, _figure(at_least), _figure(aim), _word(bar, row, value, at_least, aim), _code(document)]
    return "| " + " | ".join(told) + " |"


def _code(document: dict[str, Any]) -> str:
    return (document.get("git_revision") or "")[:7]


def _kind(bar: Bar, document: dict[str, Any], row: dict[str, Any]) -> str:
    return {RATE: f"{document.get('unit', '')}/s", RATIO: f"× {row['baseline']}", VENDOR: "× the vendor's tool"}[
        bar.figure
    ]


def _word(bar: Bar, row: dict[str, Any], value: float, at_least: float | None, aim: float | None) -> str:
    low, high = row["interval"]
    wanted = aim if at_least is None else at_least
    assert wanted is not None
    if value >= wanted:
        word = "reached, and the aim" if at_least is not None and aim is not None and value >= aim else "reached"
        return f"{word}; the interval spans the bar" if bar.figure == RATIO and low < wanted else word
    return "short; the interval spans the bar" if bar.figure == RATIO and high >= wanted else "short"


def _others(documents: Sequence[dict[str, Any]]) -> Iterator[str]:
    barred = {(bar.bench, bar.name) for bar in BARS}
    for document in documents:
        for row in document["results"]:
            if (document["bench"], row["name"]) not in barred:
                low, high = row["interval"]
                yield (
                    f"| {document['bench']} | {row['name']} | {document['profile']} | {_figure(row['rate_per_s'])} | "
                    f"{row['baseline']} | {row['ratio']:.2f} | {low:.2f}–{high:.2f} | {_code(document)} |"
                )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def read_documents() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def main() -> int:
    wanted = page(read_documents())
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print("docs/measured.md differs from reports/bench: run `python scripts/measured.py`")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
