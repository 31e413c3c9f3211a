"""What a report shows, arranged: a short list of runs side by side, a long one summed up by broker. Draws nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.comparison import Comparison
from analysis.findings import Result, by_case, on

SIDE_BY_SIDE = 6
"""Runs that fit beside each other in a table; more are summed up by broker."""
DETAILED_CASES = 8
"""Cases with charts of their own."""
LIVES_AT_MOST = 800
"""Of allowed anomalies, so that the page stays small; forbidden ones are shown whole."""
BROKERS = {"kafka": "Kafka", "rabbitmq": "RabbitMQ"}

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


@dataclass(frozen=True)
class Column:
    """Runs whose counts stand in one column."""

    title: str
    runs: list[Result]

    def count(self, name: str) -> int | None:
        """Their sum; None where one of them has no such count."""
        found = [run.count(name) for run in self.runs]
        return None if None in found else sum(count for count in found if count is not None)


def title(results: Sequence[Result]) -> str:
    """What the runs have in common, no more."""
    brokers = {broker: name for broker, name in BROKERS.items() if on(results, broker)}
    plans = [{(result.case, result.run.seed) for result in on(results, broker)} for broker in brokers]
    same = "the same " if len(plans) > 1 and all(plan == plans[0] for plan in plans) else ""
    faults = f" and {same}faults" if any(result.verdict["faults"] for result in results) else ""
    return f"{' and '.join(brokers.values())} under {same}load{faults}"


def columns(results: Sequence[Result]) -> list[Column]:
    """A column a run; of many runs two a broker: the default, and naive variants."""
    if len(results) <= SIDE_BY_SIDE:
        return [Column(result.name, [result]) for result in results]
    kinds: tuple[tuple[str, Callable[[Result], bool]], ...] = (
        ("default", lambda result: not result.naive),
        ("naive variants", lambda result: bool(result.naive)),
    )
    found = []
    for kind, belongs in kinds:
        for broker in dict.fromkeys(result.broker for result in results):
            runs = [result for result in on(results, broker) if belongs(result)]
            if runs:
                found.append(Column(f"{broker}, {kind} ({len(runs)})", runs))
    return found


def shown(results: Sequence[Result]) -> list[Result]:
    """The runs whose settings stand side by side: all of a few, else the first default one of each broker."""
    if len(results) <= SIDE_BY_SIDE:
        return list(results)
    plain = [result for result in results if not result.naive and not result.variant] or list(results)
    return [on(plain, broker)[0] for broker in dict.fromkeys(result.broker for result in plain)]


def detailed(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Cases with a section of their own: all of a few; of many those that both brokers ran with nothing else set."""
    cases = by_case(results)
    if len(cases) > DETAILED_CASES:
        both = {case: runs for case, runs in cases.items() if not runs[0].variant and len({r.broker for r in runs}) > 1}
        cases = dict(sorted(both.items(), key=lambda item: -len(item[1]))[:DETAILED_CASES])
    return cases


def pictured(runs: Sequence[Result]) -> list[Result]:
    """One run a broker for the charts over time: the first that could be judged."""
    found = []
    for broker in dict.fromkeys(run.broker for run in runs):
        ours = on(runs, broker)
        found.append(next((run for run in ours if run.word != "unknown"), ours[0]))
    return found


def books(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Invariant -> in how many runs it holds, and each run in which it does not."""
    names = dict.fromkeys(name for result in results for name in result.verdict["invariants"])
    found = []
    for name in names:
        judged = [(r, r.verdict["invariants"][name]) for r in results if name in r.verdict["invariants"]]
        found.append(
            {
                "name": name,
                "holds": sum(invariant["passed"] is True for _, invariant in judged),
                "of": len(judged),
                "otherwise": [
                    {
                        "run": r.name,
                        "word": "is broken" if i["passed"] is False else "is undecided",
                        "detail": i["detail"],
                    }
                    for r, i in judged
                    if i["passed"] is not True
                ],
            }
        )
    return found


def equivalents(results: Sequence[Result]) -> list[dict[str, str]]:
    """Which setting of one broker gives the promise that which of the other gives; every row once."""
    rows = {(row["promise"], row["kafka"], row["rabbitmq"]): row for r in results for row in r.run.equivalents}
    return list(rows.values())


def table(results: Sequence[Result], field: str) -> list[tuple[str, list[str]]]:
    """Name -> its value in each run, for every name that any run has in that field of its run.json."""
    flat = []
    for result in results:
        value = getattr(result.run, field)
        flat.append(_flat(value if isinstance(value, dict) else value.model_dump()))
    names = list(dict.fromkeys(name for values in flat for name in values))
    return [(name, [values.get(name, "–") for values in flat]) for name in names]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = "–" if inner is None else str(inner)
    return found


def anomalies(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each anomaly of each run with the lives of its first ids; forbidden ones first and whole."""
    every = [(result, anomaly) for result in results for anomaly in result.verdict["anomalies"]]
    every.sort(key=lambda pair: not pair[1]["forbidden"])
    left = LIVES_AT_MOST
    found = []
    for result, anomaly in every:
        first = anomaly["first"] if anomaly["forbidden"] else anomaly["first"][: max(left, 0)]
        left -= 0 if anomaly["forbidden"] else len(first)
        found.append(
            {
                "run": result.name,
                "name": anomaly["name"],
                "count": anomaly["count"],
                "forbidden": anomaly["forbidden"],
                "meaning": MEANINGS[anomaly["name"]],
                "first": [{**finding, "life": result.verdict["lives"].get(finding["id"], [])} for finding in first],
            }
        )
    return found


def reproduce(result: Result) -> str:
    """The one line that runs it again."""
    sets = "".join(f" --set {word}" for word in result.run.sets or ())
    return f"testbed run {result.run.scenario} --broker {result.broker} --seed {result.run.seed}{sets}"


def again(comparison: Comparison) -> str:
    """The one line that runs the whole comparison again."""
    budget = f" --budget {comparison.budget_s:g}s" if comparison.budget_s is not None else ""
    only = f" --scenarios {','.join(comparison.scenarios)}" if comparison.scenarios else ""
    sets = "".join(f" --set {word}" for word in comparison.sets)
    return f"testbed compare --{comparison.kind}{budget}{only} --seed {comparison.seed}{sets}"


def left_out(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """(part, why, cases with the brokers they are missing on) of what was planned and not run."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for cell in comparison.left_out:
        why = cell.why or ("the comparison was stopped before it" if comparison.interrupted else "it was not run")
        name = f"{cell.name}, repeat {cell.repeat}" if cell.repeat > 1 else cell.name
        found.setdefault((cell.part, why), {}).setdefault(name, []).append(cell.broker)
    return [
        (part, why, [f"{name} ({' and '.join(sorted(brokers))})" for name, brokers in cells.items()])
        for (part, why), cells in found.items()
    ]
