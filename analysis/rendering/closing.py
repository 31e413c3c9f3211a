"""The closing report of an audit as Markdown: the four mechanisms in counts, and what follows. It computes nothing."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

SHOWN = 20
"""Of each kind of finding; all of them are in the JSON."""


def closing_report(audit: Mapping[str, Any], seed: int, git_revision: str | None) -> str:
    """`audit`: as `testbed audit --json` prints it. Signed by the run's seed and both sides' digests."""
    environment = Environment(
        loader=PackageLoader("analysis.rendering"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    lost = sum(len(group["lost"]) for group in audit["groups"].values())
    return environment.get_template("closing.md").render(
        audit=audit, seed=seed, git_revision=git_revision or "not in a clone", shown=SHOWN, lost=lost
    )
