"""What may be said about a set of runs, each sentence derived from their verdicts; and what forbids saying more.

Pure: takes what `run.json` and `verdict.json` hold. No sentence here states a fact that is not computed in its line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.estimates import FEWEST_REPEATS, median_ratio
from history.reader import RunFile

SHORTEST_S = 10.0
SLIP_ALLOWED_RATIO = 0.01
FEWEST_SAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """One run: what was run, and what its verdict holds."""

    name: str
    """Its folder, relative to the report's."""
    run: RunFile
    verdict: dict[str, Any]

    @property
    def broker(self) -> str:
        return self.run.broker

    @property
    def word(self) -> str:
        return str(self.verdict["verdict"])

    def count(self, name: str) -> int | None:
        found = self.verdict["counts"].get(name)
        return None if found is None else int(found)

    def latency_ms(self, stage: str, percentile: str) -> float | None:
        found = self.verdict["latency_ms"].get(stage, {}).get(percentile)
        return None if found is None else float(found)


def by_scenario(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Scenario -> its runs, both in order of first appearance."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.run.scenario, []).append(result)
    return found


def cautions(results: Sequence[Result]) -> list[str]:
    """What a reader must know before any figure; said at the top of the report."""
    found = [caution for result in results for caution in _cautions_of(result)]
    for scenario, runs in by_scenario(results).items():
        brokers = sorted({run.broker for run in runs})
        if len(brokers) == 1:
            found.append(f"{scenario} ran on {brokers[0]} only: it compares nothing.")
        found += _unequal(scenario, runs)
    return found


def _cautions_of(result: Result) -> list[str]:
    verdict = result.verdict
    found = []
    if result.word == "unknown":
        found.append(f"{result.name} could not be judged: {'; '.join(verdict['reasons'])}.")
    if verdict["measured_s"] < SHORTEST_S:
        found.append(f"{result.name} is too short to conclude from: {verdict['measured_s']:g} s of load were measured.")
    slip = verdict["slip_ratio"]
    if slip is not None and slip > SLIP_ALLOWED_RATIO:
        found.append(f"{result.name} did not keep its schedule: {slip:.1%} of the arrivals were not sent.")
    saturated = verdict["saturated"]
    if saturated is None:
        found.append(f"{result.name}: which part was the limit cannot be told, so its rates do not compare brokers.")
    elif saturated not in ("none", "broker"):
        found.append(f"{result.name}: the limit was the {saturated}, so its rates do not compare brokers.")
    samples = result.latency_ms("commit_to_apply", "count") or 0
    if samples < FEWEST_SAMPLES:
        found.append(f"{result.name} has {samples:g} latency samples: its p99.9 says little.")
    return found


def _unequal(scenario: str, runs: Sequence[Result]) -> list[str]:
    """Runs of one scenario that were not given the same work."""
    found = []
    for name, value in (
        ("rate", lambda r: r.run.schedule.rate_per_s),
        ("measured load", lambda r: r.run.schedule.load_s),
        ("contract", lambda r: tuple(sorted(r.run.contract))),
        ("strategies", lambda r: tuple(sorted((k, str(v)) for k, v in r.run.strategies.items()))),
        ("code revision", lambda r: r.run.git_revision),
    ):
        if len({value(run) for run in runs}) > 1:
            found.append(f"The runs of {scenario} differ in their {name}: they are not comparable in it.")
    return found


def answer(results: Sequence[Result]) -> list[str]:
    """The answer first: a few sentences a reader may quote."""
    sentences = [_promises(results)]
    for scenario, runs in by_scenario(results).items():
        kafka, rabbitmq = (_judged(runs, broker) for broker in ("kafka", "rabbitmq"))
        if not kafka or not rabbitmq:
            continue
        sentences += _recoveries(scenario, kafka, rabbitmq)
        sentences += _latencies(scenario, kafka, rabbitmq)
    return sentences


def _judged(runs: Sequence[Result], broker: str) -> list[Result]:
    return [run for run in runs if run.broker == broker and run.word != "unknown"]


def _promises(results: Sequence[Result]) -> str:
    if not results:
        return "There is no run to report."
    invalid = [run for run in results if run.word == "invalid"]
    unknown = [run for run in results if run.word == "unknown"]
    valid = [run for run in results if run.word == "valid"]
    parts = []
    if invalid:
        parts.append(
            "; ".join(f"{run.name} broke its contract ({'; '.join(run.verdict['reasons'])})" for run in invalid)
        )
    if unknown:
        parts.append(f"{_runs(len(unknown))} could not be judged")
    if valid:
        committed = sum(run.count("committed") or 0 for run in valid)
        parts.append(
            f"{'all ' if len(valid) == len(results) > 1 else ''}{_runs(len(valid))} on "
            f"{' and '.join(sorted({run.broker for run in valid}))} kept every promise of the contract "
            f"over {committed:,} committed events"
        )
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"


def _recoveries(scenario: str, kafka: list[Result], rabbitmq: list[Result]) -> list[str]:
    faults = [fault for fault in kafka[0].verdict["recovery_s"] if fault in rabbitmq[0].verdict["recovery_s"]]
    return [
        sentence
        for fault in faults
        if (
            sentence := _compared(
                f"In {scenario}, after {fault}, messages were confirmed and applied again after",
                "s",
                kafka,
                rabbitmq,
                lambda run, fault=fault: run.verdict["recovery_s"].get(fault),  # type: ignore[misc]
            )
        )
    ]


def _latencies(scenario: str, kafka: list[Result], rabbitmq: list[Result]) -> list[str]:
    sentence = _compared(
        f"In {scenario}, half of the effects were committed within",
        "ms after their event",
        kafka,
        rabbitmq,
        lambda run: run.latency_ms("commit_to_apply", "p50"),
    )
    return [sentence] if sentence else []


def _compared(
    what: str,
    unit: str,
    kafka: Sequence[Result],
    rabbitmq: Sequence[Result],
    value: Callable[[Result], float | None],
) -> str | None:
    """One sentence with both medians, and the ratio only with an interval; None where a side has no value."""
    ours = [found for run in kafka if (found := value(run)) is not None]
    theirs = [found for run in rabbitmq if (found := value(run)) is not None]
    if len(ours) < len(kafka) or len(theirs) < len(rabbitmq) or min(*ours, *theirs) <= 0:
        return None
    text = f"{what} {_figure(_median(ours))} {unit} on kafka and {_figure(_median(theirs))} {unit} on rabbitmq"
    if min(len(ours), len(theirs)) < FEWEST_REPEATS:
        most = max(len(ours), len(theirs))
        return f"{text}, measured {'once' if most == 1 else 'too seldom for an interval'}: no difference is claimed."
    return f"{text}; kafka over rabbitmq: {median_ratio(ours, theirs)}."


def _figure(value: float) -> str:
    """Three digits where it is small; no exponent where it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
