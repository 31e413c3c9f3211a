"""Judge a run from its folder alone: valid, invalid or unknown, with every anomaly, its evidence and the reasons.

Invalid: a promise of the contract was broken, whatever else was not seen. Unknown: nothing forbidden was found, but
something needed to be sure is absent (drain cut short, a history file lost, a fault that never struck, an effect no
one was seen delivering). Valid: all was seen and no promise was broken. Never wrong in the comfortable direction:
whatever cannot be read or judged, also a crash in here, is unknown.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from analysis.checkers import loss, order
from analysis.checkers.evidence import Finding, Moment, first_ids, lives
from analysis.checkers.facts import Facts, load
from analysis.checkers.shop import Invariant, shop_invariants
from history.reader import BrokenHistory, line_counts

FORMAT = 1


class Word(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


EXIT_CODES = {Word.VALID: 0, Word.INVALID: 1, Word.UNKNOWN: 2}

EVIDENCE = {**loss.EVIDENCE, **order.EVIDENCE}
ANOMALIES = frozenset(EVIDENCE)
"""What a contract may forbid. `undelivered_effect` and `unseen` always make the verdict unknown as well."""

COUNTS = (*loss.CLIENT_COUNTS, *loss.GROUP_COUNTS[:-1], *order.ORDER_COUNTS, loss.GROUP_COUNTS[-1])


class UnknownAnomaly(BrokenHistory):
    def __init__(self, name: str) -> None:
        allowed = ", ".join(sorted(ANOMALIES))
        super().__init__(f"run.json forbids {name!r} in its contract, which is no anomaly; allowed: {allowed}")


@dataclass(frozen=True)
class Anomaly:
    name: str
    count: int
    forbidden: bool
    first: list[Finding]


@dataclass(frozen=True)
class Judgement:
    """What the checkers found. Times and rates are added beside it (`analysis.timing`)."""

    word: Word
    reasons: list[str]
    """Why it is not valid, each a sentence; empty exactly when it is valid."""
    contract: list[str]
    counts: dict[str, int]
    groups: dict[str, dict[str, int]]
    invariants: dict[str, Invariant]
    anomalies: list[Anomaly]
    lives: dict[str, list[Moment]]
    notes: dict[str, Any] = field(default_factory=dict)


def judge(facts: Facts) -> Judgement:
    """Run every checker over one run's facts. May raise BrokenHistory; see `judge_folder` for the careful door."""
    promised = _promised(facts)
    contract = sorted(promised.union(facts.run.contract))
    for name in contract:
        if name not in ANOMALIES:
            raise UnknownAnomaly(name)
    doubts = _doubts(facts)
    if lacking := sorted(promised.difference(facts.run.contract)):
        doubts.append(f"the contract in run.json lacks {', '.join(lacking)}, which the run promised at its start")
    drained = not _drain_doubts(facts)
    loss.uncertain_publishes(facts)
    loss.account(facts, drained)
    order.find_late(facts)
    counts, groups = _counts(facts)
    invariants = shop_invariants(facts)
    anomalies = _anomalies(facts, counts, contract)
    broken = [_sentence(anomaly, groups) for anomaly in anomalies if anomaly.forbidden]
    # Books that do not balance before the end say nothing; afterwards they break a promise.
    failed = [f"invariant {name} is broken: {i.detail}" for name, i in invariants.items() if i.passed is False]
    doubts += [f"invariant {name} is undecided: {i.detail}" for name, i in invariants.items() if i.passed is None]
    if drained:
        broken += failed
    else:
        doubts += failed
    doubts += _count_doubts(facts, counts)
    word = Word.INVALID if broken else Word.UNKNOWN if doubts else Word.VALID
    return Judgement(
        word,
        broken + doubts,
        contract,
        counts,
        groups,
        invariants,
        anomalies,
        lives(facts, {finding.id for anomaly in anomalies for finding in anomaly.first}),
        _notes(facts),
    )


def unjudged(reason: str, contract: Sequence[str] = ()) -> Judgement:
    """The verdict on what cannot be read: unknown, with the reason, and no figure that could be mistaken for one."""
    return Judgement(Word.UNKNOWN, [reason], list(contract), {}, {}, {}, [], {})


def judge_folder(folder: Path, then: Callable[[Facts, Judgement], None] | None = None) -> Judgement:
    """Judge the folder; whatever goes wrong makes it unknown. `then` sees the facts while they are open."""
    try:
        with load(folder) as facts:
            found = judge(facts)
            if then is not None:
                then(facts, found)
            return found
    except BrokenHistory as error:
        return unjudged(str(error))
    # A checker that crashes has shown nothing: the one place where any error at all becomes an answer.
    except Exception as error:  # noqa: BLE001
        return unjudged(f"the checker itself failed: {type(error).__name__}: {str(error)[:300]}")


def _promised(facts: Facts) -> set[str]:
    """What the history and the plan say of the contract: run.json's own word could be changed by itself."""
    told = facts.rows("SELECT unnest(contract) FROM said")
    return {str(name) for (name,) in told}.union(map(str, facts.run.plan.get("forbids", ())))


def _doubts(facts: Facts) -> list[str]:
    """What was not seen, so that nothing found later could make the run valid."""
    doubts = [f"history file {name} is lost" for name in facts.missing_files]
    doubts += _cut_files(facts)
    doubts += _drain_doubts(facts)
    doubts += [
        f"fault {fault.fault}, planned for {fault.planned_at_s:g} s: {fault.missed or 'never struck'}"
        for fault in facts.run.faults
        if fault.fired_at_s is None
    ]
    return doubts


def _cut_files(facts: Facts) -> list[str]:
    """A file that is shorter than the run left it proves nothing, even if it was cut at the end of a line.

    A torn last line is still a line; what was changed or added is judged for what it says.
    """
    left = facts.run.files
    now = line_counts(facts.folder) if left else {}
    known = {f"history/{name}" for name in facts.missing_files}
    gone = [f"{name} is lost" for name in left if name not in now and name not in known]
    return gone + [
        f"{name} has {now[name]} of the {lines} lines that the run left"
        for name, lines in left.items()
        if now.get(name, lines) < lines
    ]


def _drain_doubts(facts: Facts) -> list[str]:
    if not facts.run.drain.complete:
        return ["the drain was cut short"]
    ended = facts.rows("SELECT complete FROM said WHERE phase = 'check'")
    if not ended:
        return ["the run never reached its check phase, so nothing shows that the drain ended"]
    if not all(row[0] for row in ended):
        return ["the history says that the drain was cut short"]
    return []


def _counts(facts: Facts) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    client = loss.client_counts(facts)
    late = order.order_counts(facts)
    groups = {
        name: _ordered(found | late.get(name, dict.fromkeys(order.ORDER_COUNTS, 0)))
        for name, found in loss.group_counts(facts).items()
    }
    sums = {name: sum(group[name] for group in groups.values()) for name in (*loss.GROUP_COUNTS, *order.ORDER_COUNTS)}
    # Events are committed once, whoever reads them; a group's own `committed` is what it subscribes to.
    sums["committed"] = int(facts.one("SELECT count(*) FROM event WHERE is_promised"))
    return _ordered(client | sums), groups


def _ordered(counts: dict[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in COUNTS if name in counts}


def _anomalies(facts: Facts, counts: dict[str, int], contract: Sequence[str]) -> list[Anomaly]:
    return [
        Anomaly(name, counts[name], name in contract, first_ids(facts, EVIDENCE[name]))
        for name in COUNTS
        if name in EVIDENCE and counts[name] > 0
    ]


def _sentence(anomaly: Anomaly, groups: dict[str, dict[str, int]]) -> str:
    where = ", ".join(f"{group} {counts[anomaly.name]}" for group, counts in groups.items() if counts.get(anomaly.name))
    return f"{anomaly.name} = {anomaly.count}" + (f" ({where})" if where else "")


def _count_doubts(facts: Facts, counts: dict[str, int]) -> list[str]:
    doubts = []
    if counts["undelivered_effect"]:
        doubts.append(
            f"{counts['undelivered_effect']} effects were never seen delivered: the history does not tell the whole"
        )
    if counts["unseen"] and facts.run.drain.complete:
        doubts.append(f"{counts['unseen']} events are still in the outbox although the drain is called complete")
    if counts["committed"] == 0:
        doubts.append("no event was committed: an empty run proves nothing")
    elif not facts.one("SELECT count(*) FROM subscription"):
        doubts.append("no group subscribes to anything: nothing was promised")
    return doubts


def _notes(facts: Facts) -> dict[str, Any]:
    """What is worth knowing and breaks no promise."""
    malformed = facts.rows("SELECT \"group\", count(*) FROM said WHERE step = 'malformed' GROUP BY ALL ORDER BY ALL")
    return {
        "malformed": dict(malformed),
        "reordered_across_topics": order.reordered_across_topics(facts),
        "torn_files": list(facts.torn_files),
        "killed_processes": facts.one(
            "SELECT count(DISTINCT process) FROM said WHERE process NOT IN"
            " (SELECT process FROM said WHERE step = 'closed')"
        ),
        "rejected": facts.one("SELECT count(*) FROM client WHERE rejected AND NOT acknowledged"),
        "redone": facts.one("SELECT count(*) FROM account WHERE failed AND state IN ('applied', 'ignored')"),
    }


def write_json(path: Path, value: object) -> None:
    """Replace the file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    os.replace(partial, path)
