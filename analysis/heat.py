"""Strategies against faults: of each, what was forbidden and seen. Pure."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from analysis.findings import Result

Word = Literal["kept", "broke", "unknown"]


class Square(NamedTuple):
    """One strategy under one kind of fault on one broker, over all its runs."""

    strategy: str
    fault: str
    """What was planned to strike, or `no fault`."""
    broker: str
    word: Word
    text: str
    """`kept`, `unknown`, or what was broken and how often: `lost 12`."""


def squares(results: Sequence[Result]) -> list[Square]:
    """Default first, then by first appearance; what was not run together is absent."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: bool(result.naive)):
        if result.naive or not result.variant:
            shop = "no shop, the driver alone" if result.run.schedule.level == "broker" else "default"
            key = (", ".join(result.naive) or shop, fault_of(result), result.broker)
            found.setdefault(key, []).append(result)
    return [_square(*key, runs) for key, runs in found.items()]


def fault_of(result: Result) -> str:
    """Each kind once: three resets are a reset."""
    return ", ".join(dict.fromkeys(fault.fault for fault in result.run.faults)) or "no fault"


def _square(strategy: str, fault: str, broker: str, runs: Sequence[Result]) -> Square:
    broke = [run for run in runs if run.word == "invalid"]
    if broke:
        counts: dict[str, int] = {}
        for run in broke:
            for anomaly in run.verdict["anomalies"]:
                if anomaly["forbidden"]:
                    counts[anomaly["name"]] = counts.get(anomaly["name"], 0) + anomaly["count"]
        text = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()) or "books broken"
        return Square(strategy, fault, broker, "broke", text)
    if any(run.word == "unknown" for run in runs):
        return Square(strategy, fault, broker, "unknown", "unknown")
    return Square(strategy, fault, broker, "kept", "kept")
