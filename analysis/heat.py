"""Strategies against faults: of each, what was forbidden and seen. Pure."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from analysis.findings import Result

Word = Literal["kept", "broke", "unknown"]


class Square(NamedTuple):
    """One strategy in one scenario on one broker, over all its runs."""

    strategy: str
    scenario: str
    broker: str
    word: Word
    text: str
    """`kept`, `unknown`, or what was broken and how often: `lost 12`."""


def squares(results: Sequence[Result]) -> list[Square]:
    """Default first, then by first appearance; scenarios that no run was made of with a strategy are absent."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: bool(result.naive)):
        if result.naive or not result.variant:
            key = (", ".join(result.naive) or "default", result.run.scenario, result.broker)
            found.setdefault(key, []).append(result)
    return [_square(*key, runs) for key, runs in found.items()]


def _square(strategy: str, scenario: str, broker: str, runs: Sequence[Result]) -> Square:
    broke = [run for run in runs if run.word == "invalid"]
    if broke:
        counts: dict[str, int] = {}
        for run in broke:
            for anomaly in run.verdict["anomalies"]:
                if anomaly["forbidden"]:
                    counts[anomaly["name"]] = counts.get(anomaly["name"], 0) + anomaly["count"]
        text = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()) or "books broken"
        return Square(strategy, scenario, broker, "broke", text)
    if any(run.word == "unknown" for run in runs):
        return Square(strategy, scenario, broker, "unknown", "unknown")
    return Square(strategy, scenario, broker, "kept", "kept")
