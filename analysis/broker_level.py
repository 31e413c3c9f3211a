"""Where something else than the broker was the limit, what the brokers themselves carried: runs at broker level. Pure.

A rate that the API or a relay gave way at compares nothing of the brokers; the same report then shows, beside it, what
driver and broker did without the shop. Not here: which runs bear a conclusion (`findings`).
"""

from collections.abc import Sequence
from typing import NamedTuple

from analysis.findings import BROKERS, NAMED_AT_MOST, Result, by_case, on


class Carried(NamedTuple):
    """One run at broker level without a fault."""

    case: str
    broker: str
    rate_per_s: float | None
    """As planned."""
    slip_ratio: float | None
    """Share of the arrivals that were not sent; above 1 % the other figures are of another load than the planned."""
    confirmed_per_s: float | None
    received_per_s: float | None
    confirm_p50_ms: float | None
    confirm_p99_ms: float | None
    receive_p99_ms: float | None
    """All three from the intended time."""
    limit: str


def carried(results: Sequence[Result]) -> list[Carried]:
    """Every judged run at broker level in which nothing was broken on purpose, by case; the lowest rate first."""
    found = []
    for case, runs in by_case([run for run in results if run.at_broker]).items():
        for broker in BROKERS:
            found += [
                Carried(
                    case,
                    broker,
                    run.run.schedule.rate_per_s,
                    run.verdict["slip_ratio"],
                    run.verdict["throughput_per_s"].get("confirmed"),
                    run.verdict["throughput_per_s"].get("received"),
                    run.latency_ms("request_to_confirm", "p50"),
                    run.latency_ms("request_to_confirm", "p99"),
                    run.latency_ms("request_to_receive", "p99"),
                    limit(run),
                )
                for run in on(runs, broker)
                if run.word != "unknown" and not run.run.faults
            ]
    return sorted(found, key=lambda row: (row.rate_per_s or 0.0, row.case, row.broker))


def beside(results: Sequence[Result]) -> list[str]:
    """Which cases do not compare what the brokers carry, by what their limits were; then what does, or that nothing."""
    kinds: dict[str, list[str]] = {}
    for case, runs in by_case([run for run in results if not run.at_broker and not run.naive]).items():
        sides = {broker: sorted({limit(run) for run in on(runs, broker)}) for broker in BROKERS}
        if all(sides.values()) and any(limits != ["broker"] for limits in sides.values()):
            said = " and ".join(f"{' or '.join(limits)} on {broker}" for broker, limits in sides.items())
            kinds.setdefault(said, []).append(case)
    found = [
        f"In {_named(cases)} the limit was {said}: that says nothing about how much the brokers carry."
        for said, cases in kinds.items()
    ]
    if not found:
        return []
    able = {row.broker for row in carried(results)}
    lacking = [broker for broker in BROKERS if broker not in able]
    if lacking:
        found.append(
            f"No run at broker level without a fault shows it for {' or '.join(lacking)}; "
            f"`testbed run broker-steady --broker {lacking[0]}` makes one."
        )
    else:
        found.append("What they carried with nothing of the shop before or behind them stands below.")
    return found


def limit(run: Result) -> str:
    """In words: a schedule that was met had none."""
    saturated = run.verdict["saturated"]
    return "not known" if saturated is None else "none (the schedule was met)" if saturated == "none" else saturated


def _named(cases: Sequence[str]) -> str:
    if len(cases) <= NAMED_AT_MOST:
        return " and ".join(cases)
    return f"{', '.join(cases[: NAMED_AT_MOST - 1])} and {len(cases) - NAMED_AT_MOST + 1} more"
