"""Take the figures of README.md from reports/sample/report.json: `python scripts/readme_figures.py [--check]`.

What stands between the two markers is written anew; with --check nothing is written, and a difference exits 1.
"""

import json
import sys
from pathlib import Path
from typing import Any

from analysis.findings import BROKERS, figure

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "reports" / "sample" / "report.json"
BEGIN = "<!-- figures: scripts/readme_figures.py writes this from reports/sample/report.json -->"
END = "<!-- end of figures -->"
ROWS = 8


def block(report: dict[str, Any]) -> str:
    """What was measured, with every caution that the report opens with: no figure without its doubt."""
    runs = report["runs"]
    versions = {name: run["versions"][name] for run in runs for name in BROKERS if name in run["versions"]}
    machine = runs[0]["machine"]
    gib = machine["memory_bytes"] / 2**30
    lines = [
        f"{len(runs)} runs, the first on {runs[0]['started_at'][:10]}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + f"; {machine['cpus']} cores and {gib:.0f} GiB for everything.",
        "",
        *(f"- {sentence}" for sentence in report["answer"]),
    ]
    sure = [row for row in report["compared"] if row["estimate"]]
    rows = (sure or report["compared"])[:ROWS]
    if rows:
        lines += [
            "",
            "| case | figure (lower is better) | kafka | rabbitmq | what may be said |",
            "|---|---|---:|---:|---|",
        ]
        for row in rows:
            kafka, rabbitmq = (f"{figure(row[broker])} {row['unit']}" for broker in BROKERS)
            lines.append(f"| {row['case']} | {row['what']} | {kafka} | {rabbitmq} | {row['difference']} |")
    if report["cautions"]:
        lines += ["", "What weakens it:", "", *(f"- {caution}" for caution in report["cautions"])]
    return "\n".join(lines)


def written(readme: str, text: str) -> str:
    """The README with this block. Raises ValueError where it has no place for it."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("README.md has no place for figures: its markers are gone")
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}"


def main() -> int:
    readme = ROOT / "README.md"
    wanted = written(readme.read_text(encoding="utf-8"), block(json.loads(SAMPLE.read_text(encoding="utf-8"))))
    if wanted == readme.read_text(encoding="utf-8"):
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md differs from reports/sample/report.json: run `python scripts/readme_figures.py`")
        return 1
    readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
