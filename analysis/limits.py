"""What a set of runs does not show, said from the runs themselves. Pure."""

from collections.abc import Sequence

from analysis.estimates import FEWEST_REPEATS
from analysis.findings import Result, by_case, on

KEEPS_PAGES = ("sigkill", "pause", "database-restart")
"""Faults after which the kernel still holds what a process had written."""


def limits(results: Sequence[Result]) -> list[str]:
    """Sentences, the widest first."""
    found = []
    providers = sorted({str(result.run.machine["provider"]) for result in results if "provider" in result.run.machine})
    if providers and set(providers) <= {"native", "docker"}:
        found.append(
            "Each broker was one node, on the machine that also ran the database, the services and the load: nothing "
            "here is about networks between machines, replication or elections."
        )
    elif "external" in providers:
        found.append("Services were external: what else they did at the time is not known.")
    struck = sorted({fault["fault"].partition("#")[0] for result in results for fault in result.verdict["faults"]})
    if not struck:
        found.append("Nothing was broken on purpose in these runs: they show nothing about faults.")
    elif set(struck) & set(KEEPS_PAGES):
        found.append(
            "A killed process keeps what the kernel holds for it: loss by power failure was not measured, so "
            "durability tiers are not ranked by loss."
        )
    cases = by_case(results)
    once = [
        case for case, runs in cases.items() if min(len(on(runs, b)) for b in {r.broker for r in runs}) < FEWEST_REPEATS
    ]
    if once:
        found.append(
            f"{len(once)} of {len(cases)} cases were measured fewer than {FEWEST_REPEATS} times on a broker: "
            "differences in them may be chance, and none is claimed."
        )
    met = sum(result.verdict["saturated"] == "none" for result in results)
    if met:
        found.append(
            f"{met} of {len(results)} runs met their schedule: how much more would have gone through they do not say."
        )
    found.append(
        "Latency of a request counts from its intended time, that of an event from its commit; a percentile with fewer "
        "than ten samples beyond it is left out."
    )
    for result in results:
        notes = result.verdict.get("notes") or {}
        if notes.get("reordered_across_topics"):
            found.append(
                f"{result.name}: {notes['reordered_across_topics']:,} events were applied after a newer one of their "
                "aggregate that came on another topic; order is promised within a topic."
            )
    return found
