"""What may be said about a set of runs, each sentence derived from their verdicts; and what forbids saying more.

Pure: takes what `run.json`, `verdict.json` and `compare.json` hold. No sentence here states a fact that is not computed
in its line. A run that is too short, off its schedule, on a machine that was busy with something else, or limited by
another part than the broker is said to be so and compared in nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log
from statistics import median
from typing import Any, NamedTuple

from analysis.comparison import CellNote
from analysis.estimates import FEWEST_REPEATS, RatioEstimate, median_ratio
from history.reader import RunFile

BROKERS = ("kafka", "rabbitmq")
SHORTEST_S = 10.0
SLIP_ALLOWED_RATIO = 0.01
DRIFT_ALLOWED_RATIO = 0.15
"""How far a machine's speed, measured before each run, may be from the median of all runs."""
FEWEST_SAMPLES = 1000
NAMED_AT_MOST = 3
BEYOND = {"p50": 0.5, "p90": 0.1, "p99": 0.01, "p999": 0.001}
"""Share of the samples that lie beyond a percentile."""
FEWEST_BEYOND = 10
"""Runs of one weakness that are named one by one; more are summed up."""
TIMING = ("load.duration_s", "load.warm_up_s")
"""`--set` keys that say how long a run took, not what it was about."""
DEFAULT_STRATEGIES = {"publish": "outbox-leased", "consume": "inbox"}


@dataclass(frozen=True)
class Result:
    """One run: what was run, and what its verdict holds."""

    name: str
    """Its folder, relative to the report's."""
    run: RunFile
    verdict: dict[str, Any]
    cell: CellNote | None = None
    """What it was run for, where it belongs to a comparison."""

    @property
    def broker(self) -> str:
        return self.run.broker

    @property
    def word(self) -> str:
        return str(self.verdict["verdict"])

    @property
    def variant(self) -> tuple[str, ...]:
        """What was set otherwise than in the scenario's file, but for how long it took."""
        return tuple(word for word in self.run.sets or () if word.partition("=")[0] not in TIMING)

    @property
    def case(self) -> str:
        """Runs of one case are repeats of one another, on either broker."""
        return ", ".join((self.run.scenario, *self.variant))

    @property
    def naive(self) -> tuple[str, ...]:
        """Strategies and seams that are not the default: a variant that may break the contract on purpose."""
        named = [
            f"{kind}={value}"
            for kind, value in self.run.strategies.items()
            if value != DEFAULT_STRATEGIES.get(kind, value)
        ]
        seams = self.run.settings.get("seams") or {}
        return (*named, *(f"{seam}={value}" for seam, value in seams.items()))

    @property
    def at_broker(self) -> bool:
        """Driver and receiver spoke to the broker: no outbox, no inbox, no database."""
        return self.run.schedule.level == "broker"

    @property
    def contract(self) -> tuple[str, ...]:
        return tuple(sorted(self.run.contract))

    @property
    def work_per_s(self) -> float | None:
        """How fast the machine was just before the run."""
        found = self.run.machine.get("work_per_s")
        return None if found is None else float(found)

    def count(self, name: str) -> int | None:
        found = self.verdict["counts"].get(name)
        return None if found is None else int(found)

    def latency_ms(self, stage: str, percentile: str) -> float | None:
        """None also for a percentile with fewer than ten samples beyond it: that is an anecdote."""
        found = self.verdict["latency_ms"].get(stage, {})
        if percentile not in found or BEYOND.get(percentile, inf) * found["count"] < FEWEST_BEYOND:
            return None
        return float(found[percentile])

    def highest(self, column: str) -> float | None:
        """Of a series, each second of it that is known."""
        return max((value for value in self.verdict["series"].get(column, []) if value is not None), default=None)


def by_case(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Case -> its runs, both in order of first appearance."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.case, []).append(result)
    return found


def on(runs: Sequence[Result], broker: str) -> list[Result]:
    return [run for run in runs if run.broker == broker]


class Weakness(NamedTuple):
    """Why nothing is concluded from a run, or less."""

    many: str
    """Said of several runs: `are too short to conclude from`."""
    one: str
    """Said of this run, after its name."""
    forbids: bool = True
    """It is compared in nothing."""
    of_load: bool = False
    """The load was more than the system carries: of a run that was to find that, no weakness."""


def weaknesses(result: Result, typical_work_per_s: float | None = None) -> list[Weakness]:
    """All that weakens one run; `typical_work_per_s` is the median over all runs of the report."""
    verdict = result.verdict
    found = []
    if result.word == "unknown":
        # It held for an overload: its drain was not long enough, and nothing else kept it from a verdict.
        held = result.cell is not None and result.cell.state == "held"
        said = f" could not be judged: {'; '.join(verdict['reasons'])}."
        found.append(Weakness("could not be judged", said, of_load=held))
    if result.word == "invalid" and not result.naive:
        said = "broke its contract, so nothing is compared of it"
        found.append(Weakness("broke their contract, so nothing is compared of them", f" {said}."))
    if verdict["measured_s"] < SHORTEST_S:
        seconds = f"{verdict['measured_s']:g} s of load were measured"
        found.append(Weakness("are too short to conclude from", f" is too short to conclude from: {seconds}."))
    slip = verdict["slip_ratio"]
    if slip is not None and slip > SLIP_ALLOWED_RATIO:
        share = f"{slip:.1%} of the arrivals were not sent"
        found.append(Weakness("did not keep their schedule", f" did not keep its schedule: {share}.", of_load=True))
    saturated = verdict["saturated"]
    if saturated is None:
        found.append(
            Weakness(
                "have a limit that cannot be told, so their rates do not compare brokers",
                ": which part was the limit cannot be told, so its rates do not compare brokers.",
                of_load=True,
            )
        )
    elif saturated not in ("none", "broker"):
        said = f"the limit was the {saturated}"
        found.append(
            Weakness(
                f"were limited by the {saturated}, so their rates do not compare brokers",
                f": {said}, so its rates do not compare brokers.",
                of_load=True,
            )
        )
    off = drift(result, typical_work_per_s)
    if abs(off) > DRIFT_ALLOWED_RATIO:
        speed = f"the machine did {abs(off):.0%} {'more' if off > 0 else 'less'} work a second before it than usual"
        found.append(Weakness("ran while the machine was not as fast as usual", f" is too noisy: {speed}."))
    samples = result.latency_ms("commit_to_apply", "count") or result.latency_ms("request_to_receive", "count") or 0
    if samples < FEWEST_SAMPLES:
        found.append(
            Weakness(
                f"have fewer than {FEWEST_SAMPLES:,} latency samples: their p99.9 says little",
                f" has {samples:g} latency samples: its p99.9 says little.",
                forbids=False,
            )
        )
    return found


def drift(result: Result, typical_work_per_s: float | None) -> float:
    """How far the machine's speed before this run was from the typical one, as a ratio; 0 where either is not known."""
    return result.work_per_s / typical_work_per_s - 1 if typical_work_per_s and result.work_per_s else 0.0


def typical_work_per_s(results: Sequence[Result]) -> float | None:
    """Median over the runs that measured it; None for fewer than two."""
    measured = [result.work_per_s for result in results if result.work_per_s]
    return median(measured) if len(measured) > 1 else None


def conclusive(results: Sequence[Result]) -> list[Result]:
    """The runs that figures may be compared of."""
    typical = typical_work_per_s(results)
    return [result for result in results if not any(weak.forbids for weak in weaknesses(result, typical))]


def cautions(results: Sequence[Result]) -> list[str]:
    """What a reader must know before any figure; said at the top of the report."""
    typical = typical_work_per_s(results)
    kinds: dict[str, list[tuple[Result, Weakness]]] = {}
    for result in results:
        for weak in weaknesses(result, typical):
            # To find where a system gives way is what an overload is run for.
            if not (weak.of_load and result.cell is not None and result.cell.overload):
                kinds.setdefault(weak.many, []).append((result, weak))
    found = []
    for many, weak_runs in kinds.items():
        if len(weak_runs) <= NAMED_AT_MOST:
            found += [result.name + weak.one for result, weak in weak_runs]
        else:
            names = ", ".join(result.name for result, _ in weak_runs[: NAMED_AT_MOST - 1])
            found.append(f"{len(weak_runs)} runs {many}: {names} and {len(weak_runs) - NAMED_AT_MOST + 1} more.")
    alone = {case: runs[0].broker for case, runs in by_case(results).items() if len({run.broker for run in runs}) == 1}
    if len(alone) <= NAMED_AT_MOST:
        found += [f"{case} ran on {broker} only: it compares nothing." for case, broker in alone.items()]
    else:
        found.append(f"{len(alone)} cases ran on one broker only and compare nothing: {'; '.join(alone)}.")
    for case, runs in by_case(results).items():
        found += _unequal(case, runs)
    return found


def _unequal(case: str, runs: Sequence[Result]) -> list[str]:
    """Runs of one case that were not given the same work."""
    found = []
    for name, value in (
        ("rate", lambda r: r.run.schedule.rate_per_s),
        ("measured load", lambda r: r.run.schedule.load_s),
        ("contract", lambda r: r.contract),
        ("strategies", lambda r: tuple(sorted((k, str(v)) for k, v in r.run.strategies.items()))),
        ("code revision", lambda r: r.run.git_revision),
    ):
        if len({value(run) for run in runs}) > 1:
            found.append(f"The runs of {case} differ in their {name}: they are not comparable in it.")
    return found


class Compared(NamedTuple):
    """One figure of one case on both brokers; lower is better in all of them."""

    case: str
    what: str
    unit: str
    kafka: float
    rabbitmq: float
    estimate: RatioEstimate | None
    """Kafka over RabbitMQ; None below three repeats a side, or where a value is nought."""
    repeats: int
    """Of the side that has fewer."""
    kept: str = ""
    """How many of the runs bear it, where not all do: what dropped out may have been the worst of them."""

    @property
    def lower(self) -> str:
        """The broker for which a difference is shown, or none."""
        if self.estimate is None or not self.estimate.shows_difference:
            return ""
        return "kafka" if self.estimate.ratio < 1 else "rabbitmq"

    @property
    def difference(self) -> str:
        """What may be said: which is lower, or that nothing was shown; and of how many runs."""
        if self.estimate is None:
            few = f"fewer than {FEWEST_REPEATS} repeats" if self.repeats < FEWEST_REPEATS else "a value of nought"
            said = f"{few}: no difference is claimed"
        else:
            said = f"{self.lower} is lower" if self.lower else "no difference shown"
        return f"{said}, by {self.kept}" if self.kept else said

    @property
    def interval(self) -> str:
        if self.estimate is None:
            return "–"
        return f"{self.estimate.ratio:.2f} ({self.estimate.low:.2f} to {self.estimate.high:.2f})"


def compared(results: Sequence[Result]) -> list[Compared]:
    """Every figure that both brokers have from runs that bear a conclusion, case by case."""
    rows = []
    all_runs = by_case(results)
    for case, runs in by_case([result for result in conclusive(results) if not result.naive]).items():
        kafka, rabbitmq = on(runs, "kafka"), on(runs, "rabbitmq")
        if not kafka or not rabbitmq or _unequal(case, runs):
            continue
        for what, unit, value in _figures(kafka[0], rabbitmq[0]):
            ours, theirs = _values(kafka, value), _values(rabbitmq, value)
            if ours is None or theirs is None:
                continue
            repeats = min(len(ours), len(theirs))
            enough = repeats >= FEWEST_REPEATS and min(*ours, *theirs) > 0
            estimate = median_ratio(ours, theirs) if enough else None
            kept = _kept(runs, all_runs[case])
            rows.append(Compared(case, what, unit, median(ours), median(theirs), estimate, repeats, kept))
    return rows


def _kept(bearing: Sequence[Result], runs: Sequence[Result]) -> str:
    """`2 of 3 runs on kafka`; empty where every run bears the conclusion."""
    sides = ((broker, len(on(bearing, broker)), len(on(runs, broker))) for broker in BROKERS)
    return " and ".join(f"{bear} of {many(of, 'run')} on {broker}" for broker, bear, of in sides if bear < of)


Value = Callable[[Result], float | None]


def _figures(kafka: Result, rabbitmq: Result) -> list[tuple[str, str, Value]]:
    """What is compared: recovery from each fault that both had, latency, and what the broker used."""
    faults = [fault for fault in kafka.verdict["recovery_s"] if fault in rabbitmq.verdict["recovery_s"]]

    def recovery(fault: str) -> Value:
        return lambda run: run.verdict["recovery_s"].get(fault)

    return [
        *((f"after {fault}, until confirmed and applied again", "s", recovery(fault)) for fault in faults),
        ("half of the effects committed within", "ms", lambda run: run.latency_ms("commit_to_apply", "p50")),
        ("99 % of the effects committed within", "ms", lambda run: run.latency_ms("commit_to_apply", "p99")),
        ("half of the messages confirmed within", "ms", lambda run: run.latency_ms("request_to_confirm", "p50")),
        ("99 % of the messages confirmed within", "ms", lambda run: run.latency_ms("request_to_confirm", "p99")),
        ("99 % of the messages received within", "ms", lambda run: run.latency_ms("request_to_receive", "p99")),
        ("the broker's CPU a million messages", "s", lambda run: _used(run, "cpu_s_per_million")),
    ]


def _used(run: Result, name: str) -> float | None:
    found = run.verdict.get("resources", {}).get("broker", {}).get(name)
    return None if found is None else float(found)


def _values(runs: Sequence[Result], value: Value) -> list[float] | None:
    """None where one run has no value: a recovery that never came is not left out of a median."""
    found = [figure for run in runs if (figure := value(run)) is not None]
    return found if found and len(found) == len(runs) else None


SENTENCES = 4


def answer(results: Sequence[Result], rows: Sequence[Compared]) -> list[str]:
    """The answer first: a few sentences a reader may quote. `rows`: `compared`, whose table stands below them."""
    sentences = [_promises([result for result in results if not result.naive])] if results else [_promises([])]
    if all(result.naive for result in results) and results:
        sentences = []
    sentences += _naive([result for result in results if result.naive])
    sentences += _never_recovered([result for result in results if not result.naive])
    sure = [row for row in rows if row.estimate is not None]
    if sure:
        lower = {broker: sum(row.lower == broker for row in sure) for broker in BROKERS}
        none_shown = sum(not row.lower for row in sure)
        sentences.append(
            f"Of {many(len(sure), 'figure')} with an interval, kafka is lower in {lower['kafka']} and rabbitmq in "
            f"{lower['rabbitmq']}; {none_shown} show no difference.{_by_chance(sure)}"
        )
        shown = sorted((row for row in sure if row.lower), key=_strength, reverse=True)
        sentences += [_sentence(row) for row in (shown or sure)[:SENTENCES]]
    elif rows:
        cases = list(dict.fromkeys(row.case for row in rows))
        sentences += [_sentence(row) for row in rows if row.case in cases[:2] and "CPU" not in row.what][:SENTENCES]
    elif {result.broker for result in results} >= {"kafka", "rabbitmq"}:
        sentences.append("No figure of these runs compares the brokers.")
    return sentences


def _by_chance(sure: Sequence[Compared]) -> str:
    """Three repeats a side: the interval is their whole range, and 2 of the 20 ways to deal six runs to two sides leave
    these ranges apart."""
    few = sum(row.repeats == 3 for row in sure)
    if not few:
        return ""
    return (
        f" The interval of {few} of them is the range of three repeats: one in ten of such would show a difference by "
        "chance alone."
    )


def _strength(row: Compared) -> float:
    return abs(log(row.estimate.ratio)) if row.estimate is not None else 0.0


def _sentence(row: Compared) -> str:
    figures = f"{figure(row.kafka)} {row.unit} on kafka and {figure(row.rabbitmq)} {row.unit} on rabbitmq"
    if row.estimate is None:
        return f"In {row.case}, {row.what}: {figures}; {row.difference}."
    by = f", by {row.kept}" if row.kept else ""
    return f"In {row.case}, {row.what}: {figures}; kafka over rabbitmq: {row.estimate}{by}."


def _never_recovered(results: Sequence[Result]) -> list[str]:
    """What was not confirmed and applied again: no median tells of it."""
    return [
        f"In {run.name} no message that was sent after {fault} was seen confirmed and applied."
        for run in results
        if run.word != "unknown"
        for fault, after_s in run.verdict["recovery_s"].items()
        if after_s is None
    ]


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
        parts.append(f"{many(len(unknown), 'run')} could not be judged")
    if valid:
        # At broker level there is no database to commit to: messages alone, and fewer promises.
        sides = (
            ("committed events", [run for run in valid if not run.at_broker]),
            ("messages of the driver alone", [run for run in valid if run.at_broker]),
        )
        over = (f"{sum(run.count('committed') or 0 for run in runs):,} {what}" for what, runs in sides if runs)
        parts.append(
            f"{'all ' if len(valid) == len(results) > 1 else ''}{many(len(valid), 'run')} on "
            f"{' and '.join(sorted({run.broker for run in valid}))} kept every promise of the contract "
            f"over {' and '.join(over)}"
        )
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _naive(results: Sequence[Result]) -> list[str]:
    """One sentence a naive strategy: what it broke, of how many."""
    found = []
    for strategy in dict.fromkeys(result.naive for result in results):
        runs = [result for result in results if result.naive == strategy]
        broke = [run for run in runs if run.word == "invalid"]
        judged = [run for run in runs if run.word != "unknown"]
        what = sorted(
            {anomaly["name"] for run in broke for anomaly in run.verdict["anomalies"] if anomaly["forbidden"]}
        )
        names = ", ".join(strategy)
        of = many(len(runs), "run")
        if broke:
            said = f"the shop broke its contract in {len(broke)} of {of} ({', '.join(what) or 'its books'})"
        elif judged:
            said = f"the shop broke nothing in the {many(len(judged), 'run')} that could be judged"
        else:
            said = f"nothing can be told: none of {of} could be judged"
        found.append(f"With {names} {said}.")
    return found


def many(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def figure(value: float) -> str:
    """Three digits where it is small; thousands apart and no exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
