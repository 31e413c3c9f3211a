"""Compute, keep and compare `verdict.json`: what the checkers found beside what the clock says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from analysis.checkers.facts import Facts
from analysis.checkers.verdict import EXIT_CODES, FORMAT, Judgement, judge_folder, write_json
from analysis.timing.measures import NO_MEASURES, Measures, measure
from history.reader import BrokenHistory, RunFile, read_run

STORED = "verdict.json"


@dataclass(frozen=True)
class Verdict:
    """One run's answer. `fields` is exactly what `verdict.json` holds."""

    judgement: Judgement
    measures: Measures
    fields: dict[str, Any]

    @property
    def word(self) -> str:
        return str(self.judgement.word)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.judgement.word]


def compute_verdict(folder: Path) -> Verdict:
    """From the files alone; a folder that cannot be read gives `unknown` with the reason, never an exception."""
    measured: list[Measures] = []

    def then(facts: Facts, _: Judgement) -> None:
        measured.append(measure(facts))

    judgement = judge_folder(folder, then)
    measures = measured[0] if measured else NO_MEASURES
    try:
        run = read_run(folder)
    except BrokenHistory:
        run = None
    return Verdict(judgement, measures, _fields(run, judgement, measures))


def write_verdict(folder: Path) -> Verdict:
    """Compute and write `verdict.json`, whole or not at all."""
    verdict = compute_verdict(folder)
    write_json(folder / STORED, verdict.fields)
    return verdict


def stored_verdict(folder: Path) -> dict[str, Any] | None:
    """What `verdict.json` holds; None where there is none. Raises BrokenHistory where it is no object."""
    try:
        found = orjson.loads((folder / STORED).read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError as error:
        raise BrokenHistory(f"{STORED} of {folder.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BrokenHistory(f"{STORED} of {folder.name} is not an object")
    return found


def differences(stored: dict[str, Any], computed: dict[str, Any]) -> list[str]:
    """Where two verdicts differ, as `counts.lost: 0 stored, 1 computed`; latencies and rates too. Empty: the same."""
    # Through JSON, so that tuples and enums compare as they are stored.
    return list(_differences("", stored, orjson.loads(orjson.dumps(computed))))


def _differences(path: str, stored: Any, computed: Any) -> list[str]:
    if isinstance(stored, dict) and isinstance(computed, dict):
        found: list[str] = []
        for name in sorted(stored.keys() | computed.keys()):
            found += _differences(f"{path}.{name}" if path else name, stored.get(name), computed.get(name))
        return found
    if stored == computed:
        return []
    if isinstance(stored, list | dict) or isinstance(computed, list | dict):
        return [f"{path}: differs"]
    return [f"{path}: {stored} stored, {computed} computed"]


def _fields(run: RunFile | None, found: Judgement, measures: Measures) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "broker": run.broker if run else None,
        "scenario": run.scenario if run else None,
        "seed": run.seed if run else None,
        "verdict": str(found.word),
        "passed": found.word == "valid",
        "reasons": found.reasons,
        "contract": found.contract,
        "counts": found.counts,
        "groups": found.groups,
        "invariants": {name: {"passed": i.passed, "detail": i.detail} for name, i in found.invariants.items()},
        "anomalies": [
            {
                "name": anomaly.name,
                "count": anomaly.count,
                "forbidden": anomaly.forbidden,
                "first": [finding._asdict() for finding in anomaly.first],
            }
            for anomaly in found.anomalies
        ],
        "lives": {id_: [moment._asdict() for moment in moments] for id_, moments in found.lives.items()},
        "notes": found.notes,
        **measures.fields(),
    }
