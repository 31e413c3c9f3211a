"""The ladder: direct, outbox, idempotence, batch, concurrency. What did each step lose, repeat and take under one load
and the same faults, and do these figures bear out the four lessons that are drawn from it?

Pure. A step is told by what was set, so its runs may be those of a comparison or made one by one. A lesson is supported
or refuted only by figures that show it; where they show neither it is undecided, and where a step is absent it is not
measured. Not here: load and faults (`benchmarks/scenarios/ladder.toml`), predictions (`benchmarks/matrix.py`).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from analysis.estimates import median_of_known
from analysis.findings import BROKERS, DRIFT_ALLOWED_RATIO, Result, drift, figure, on, typical_work_per_s

SCENARIO = "ladder"
CLEAR_RATIO = 1.25
"""How many times more, or less, a step must get done in a second to count: what is closer may be chance."""


class Step(NamedTuple):
    name: str
    row: str
    """Of docs/systems.md: what is said of this step there."""
    sets: tuple[str, ...]
    """`--set` words that make it, and nothing else set but for how long it took."""


ONE_BY_ONE = "batch=1"
STEPS = (
    Step("direct", "S1.13", ("publish_strategy=direct-after-commit", "consume_strategy=none", ONE_BY_ONE)),
    Step("outbox", "S1.17", ("consume_strategy=none", ONE_BY_ONE)),
    Step("idempotence", "S1.18", (ONE_BY_ONE,)),
    Step("batch", "S1.25", ()),
    Step("concurrency", "S1.27", ("roles.consumers=3",)),
)
"""Each keeps what the one before it added, and changes one thing."""


class Rung(NamedTuple):
    """One step on one broker, over its repeats: counts are sums, the others medians."""

    step: Step
    broker: str
    runs: int
    lost: int
    duplicated: int
    """Effects beyond the first."""
    applied_per_s: float | None
    """Over the load phase: at most what the load asks for."""
    busiest_per_s: float | None
    """Messages acked in the busiest second, repeats too: what the step can do when much is waiting."""
    p99_ms: float | None
    """From commit to effect; what waits while the broker is away is in it, what was lost is not."""
    broken: int = 0
    """Runs that broke their contract, in whatever promise."""

    @property
    def place(self) -> str:
        """Its anchor on the page."""
        return f"ladder-{self.broker}-{self.step.name}"

    @property
    def is_whole(self) -> bool:
        return self.lost == self.duplicated == self.broken == 0


Word = Literal["supported", "refuted", "undecided", "not measured yet"]


class Lesson(NamedTuple):
    text: str
    broker: str
    word: Word
    why: str
    """The figures that say so; of one not measured yet, what it needs."""
    rungs: tuple[Rung, ...]
    """Those of its steps that were run."""


def rungs(results: Sequence[Result]) -> list[Rung]:
    """In the ladder's order, kafka first; a step that was not run, or not seen to its end, is absent.

    How much got done is told only by runs on a machine that was as fast as usual: harm is harm on any.
    """
    typical = typical_work_per_s(results)
    judged = [result for result in results if result.run.scenario == SCENARIO and _is_told(result)]
    found = []
    for step in STEPS:
        for broker in BROKERS:
            runs = [run for run in on(judged, broker) if set(run.variant) == set(step.sets)]
            if runs:
                found.append(_rung(step, broker, runs, typical))
    return found


def lessons(found: Sequence[Rung]) -> list[Lesson]:
    """All four, each on both brokers; none at all where no step was run."""
    told = []
    for text, names, judge in _LESSONS if found else ():
        for broker in BROKERS:
            here = {rung.step.name: rung for rung in found if rung.broker == broker}
            absent = [step for step in STEPS if step.name in names and step.name not in here]
            there = tuple(here[name] for name in names if name in here)
            word, why = _needs(absent) if absent else judge(*there)
            told.append(Lesson(text, broker, word, why, there))
    return told


def cost_and_side(results: Sequence[Result]) -> list[str]:
    """Of claim C21: what the lessons on guarantees, speed and the consumer were judged by."""
    return [
        f"{lesson.text}, on {lesson.broker}: {lesson.why}"
        for lesson in lessons(rungs(results))
        if lesson.text in (GUARANTEE_FIRST, CONSUMER_MATTERS) and lesson.word != "not measured yet"
    ]


def _is_told(result: Result) -> bool:
    """Also an invalid run proves nothing by its zeros where something was owed to the last or a fault was missed."""
    is_seen = result.run.drain.complete and all(fault.fired_at_s is not None for fault in result.run.faults)
    return is_seen and result.word != "unknown"


def _rung(step: Step, broker: str, runs: Sequence[Result], typical_work_per_s: float | None) -> Rung:
    timed = [run for run in runs if abs(drift(run, typical_work_per_s)) <= DRIFT_ALLOWED_RATIO]
    return Rung(
        step,
        broker,
        len(runs),
        sum(run.count("lost") or 0 for run in runs),
        sum(run.count("duplicated_effects") or 0 for run in runs),
        median_of_known([run.verdict["throughput_per_s"].get("applied") for run in timed]),
        median_of_known([run.highest("acked_per_s") for run in timed]),
        median_of_known([run.latency_ms("commit_to_apply", "p99") for run in timed]),
        sum(run.word == "invalid" for run in runs),
    )


Judged = tuple[Word, str]
Change = Literal["better", "worse", "no change shown"]
CHANGES: tuple[Change, ...] = ("better", "worse", "no change shown")
FIGURES = {
    "lost": "lost", "duplicated": "doubled", "broken": "broke its contract",
    "busiest_per_s": "acked in the busiest second",
}  # fmt: skip


def _guarantee_first(idempotence: Rung, *quicker: Rung) -> Judged:
    """Speed comes after the guarantee and leaves it whole."""
    why = "; ".join(_each(name, idempotence, *quicker) for name in FIGURES)
    if not idempotence.is_whole:
        return "undecided", why
    if not all(rung.is_whole for rung in quicker):
        return "refuted", why
    return _by(_most(idempotence, quicker)), why


def _boundary_decides(direct: Rung, outbox: Rung, idempotence: Rung) -> Judged:
    """State and event in one transaction lose nothing; effect and inbox row in one transaction double nothing."""
    why = f"{_each('lost', direct, outbox, idempotence)}; {_each('duplicated', outbox, idempotence)}"
    if outbox.lost or not idempotence.is_whole:
        return "refuted", why
    return "supported" if direct.lost and outbox.duplicated else "undecided", why


def _consumer_matters(direct: Rung, outbox: Rung, idempotence: Rung, *quicker: Rung) -> Judged:
    """Of what gets done in a second, the consumer's steps change more than the sender's."""
    sender, consumer = _times(direct, outbox), _most(idempotence, quicker)
    if sender is None or consumer is None:
        return "undecided", "how much was acked in the busiest second is not known of every step"
    why = f"acked in the busiest second: {figure(sender)} times as many by the outbox, "
    return _by(consumer / sender), why + f"{figure(consumer)} times as many by batches or more consumers"


def _step_by_step(*every: Rung) -> Judged:
    """Each step is better than the one before it."""
    changes = {after.step.name: _change(before, after) for before, after in pairwise(every)}
    named = {change: [name for name, found in changes.items() if found == change] for change in CHANGES}
    why = "; ".join(f"{change}: {', '.join(names)}" for change, names in named.items() if names)
    if named["worse"]:
        return "refuted", why
    return "undecided" if named["no change shown"] else "supported", why


def _change(before: Rung, after: Rung) -> Change:
    """A kind of harm is new, or gone; else more or less gets done in a second. So a guarantee may cost speed."""
    harms = ((before.lost, after.lost), (before.duplicated, after.duplicated))
    if any(now and not earlier for earlier, now in harms):
        return "worse"
    if any(earlier and not now for earlier, now in harms):
        return "better"
    word = _by(_times(before, after))
    return "better" if word == "supported" else "worse" if word == "refuted" else "no change shown"


def _by(ratio: float | None) -> Word:
    if ratio is None or 1 / CLEAR_RATIO < ratio < CLEAR_RATIO:
        return "undecided"
    return "supported" if ratio > 1 else "refuted"


def _times(before: Rung, after: Rung) -> float | None:
    """How many times as many messages are acked in the busiest second; None where one is not known."""
    return after.busiest_per_s / before.busiest_per_s if before.busiest_per_s and after.busiest_per_s else None


def _most(before: Rung, after: Sequence[Rung]) -> float | None:
    return max((times for rung in after if (times := _times(before, rung)) is not None), default=None)


def _each(name: str, *of: Rung) -> str:
    """`lost: direct 12, outbox 0`."""
    values = {rung.step.name: getattr(rung, name) for rung in of}
    told = (f"{step} {'–' if value is None else figure(value)}" for step, value in values.items())
    return f"{FIGURES[name]}: {', '.join(told)}"


def _needs(absent: Sequence[Step]) -> Judged:
    return "not measured yet", "needs " + ", ".join(f"row {step.row} ({step.name})" for step in absent)


GUARANTEE_FIRST = "Guarantee before speed"
CONSUMER_MATTERS = "The consumer matters more"
ALL = tuple(step.name for step in STEPS)
_LESSONS: tuple[tuple[str, tuple[str, ...], Callable[..., Judged]], ...] = (
    (GUARANTEE_FIRST, ("idempotence", "batch", "concurrency"), _guarantee_first),
    ("The transaction's boundary decides", ("direct", "outbox", "idempotence"), _boundary_decides),
    (CONSUMER_MATTERS, ALL, _consumer_matters),
    ("Improve step by step", ALL, _step_by_step),
)
"""Text, the steps that answer it, and how."""
