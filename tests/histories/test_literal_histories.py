"""Tiny histories, written out, with the verdict a person would give: each definition of the checkers at its edges."""

from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.verdict import Judgement, judge_folder
from tests.histories.writing import Run

LEDGER = ("requests", "events", "pending", "inbox", "effects", "failed_events")
QUIET = {"committed", "delivered", "applied", "attempted", "acknowledged", "ignored"}
"""Counts that are no anomaly."""


class Tiny(Run):
    """A run of group `g`, which takes events of type `T`; every method adds one fact."""

    def __init__(self, *takes: str, contract: tuple[str, ...] = ()) -> None:
        opened = {"t_ns": 1, "step": "opened", "role": "all", "pid": 1, "format": 1}
        end = {"t_ns": 9, "step": "phase", "phase": "check", "complete": True}
        run = {
            "format": 1, "broker": "memory", "scenario": "tiny", "seed": 1, "contract": list(contract),
            "history_files": ["all-1.ndjson"], "drain": {"complete": True},
        }  # fmt: skip
        ledger: dict[str, list[dict[str, Any]]] = {name: [] for name in LEDGER}
        ledger["subscriptions"] = [{"group": "g", "event_type": type_} for type_ in ("T", *takes)]
        super().__init__(run, {"all-1.ndjson": [opened, end]}, ledger)
        self.number = 0

    def line(self, step: str, *ids: str, **fields: Any) -> "Tiny":
        self.history["all-1.ndjson"].append({"t_ns": 2, "step": step, "ids": list(ids), **fields})
        return self

    def request(self, id_: str, outcome: str) -> "Tiny":
        return self.line("requested", id_, intended_ns=[2]).line("answered", id_, outcomes=[outcome])

    def event(self, id_: str, sequence: int | None = 1, key: str = "k", topic: str = "t", type_: str = "T") -> "Tiny":
        self.ledger["events"].append(
            {"event_id": id_, "topic": topic, "event_type": type_, "aggregate_type": "a", "aggregate_id": key,
             "sequence": sequence, "correlation_id": "c"}
        )  # fmt: skip
        return self

    def delivered(self, *ids: str, group: str = "g") -> "Tiny":
        return self.line("delivered", *ids, group=group)

    def effect(self, id_: str, name: str = "done", group: str = "g") -> "Tiny":
        self.number += 1
        self.ledger["effects"].append({"applied_no": self.number, "group": group, "event_id": id_, "effect": name})
        return self

    def inbox(self, id_: str, outcome: str = "applied", group: str = "g") -> "Tiny":
        self.ledger["inbox"].append({"group": group, "event_id": id_, "outcome": outcome, "reason": None})
        return self

    def done(self, *ids: str, group: str = "g") -> "Tiny":
        """Delivered and applied, in this order."""
        self.delivered(*ids, group=group)
        for id_ in ids:
            self.inbox(id_, group=group).effect(id_, group=group)
        return self

    def letter(self, id_: str, group: str = "g") -> "Tiny":
        self.ledger["failed_events"].append({"topic": "t", "group": group, "event_id": id_, "reason": "bad"})
        return self

    def pending(self, id_: str, parked: bool = False) -> "Tiny":
        self.ledger["pending"].append({"event_id": id_, "attempts": 1, "last_error": None, "parked": parked})
        return self


DEAD = "dead-letter-service"
NOBODYS = "00000000-0000-4000-8000-000000000bad"

CASES: dict[str, tuple[Tiny, dict[str, list[str]]]] = {
    # What became of an event.
    "applied": (Tiny().event("e").done("e"), {}),
    "ignored with a reason": (Tiny().event("e").delivered("e").inbox("e", "ignored"), {}),
    "neither applied nor anything else": (Tiny().event("e").delivered("e"), {"lost": ["e"]}),
    "in the inbox as applied, without an effect": (
        Tiny().event("e").delivered("e").inbox("e"),
        {"lost": ["e"]},
    ),
    "an effect without an inbox row, as without an inbox": (Tiny().event("e").delivered("e").effect("e"), {}),
    "a dead letter": (Tiny().event("e").delivered("e").letter("e"), {"dead_lettered": ["e"]}),
    "a dead letter that was applied later": (Tiny().event("e").done("e").letter("e"), {}),
    "a dead letter whose redo was ignored": (Tiny().event("e").delivered("e").letter("e").inbox("e", "ignored"), {}),
    "a dead letter that claims to be applied and has no effect": (
        Tiny().event("e").delivered("e").letter("e").inbox("e"),
        {"lost": ["e"]},
    ),
    "still in the outbox": (Tiny().event("e").event("f", 2).done("f").pending("e"), {"unseen": ["e"]}),
    "parked": (Tiny().event("e").pending("e", parked=True), {"parked": ["e"]}),
    "in the outbox and applied: only its mark was lost": (Tiny().event("e").done("e").pending("e"), {}),
    "of a type that the group does not take": (Tiny().event("e").done("e").event("x", type_="X"), {}),
    "of a type that the group does not take, applied": (
        Tiny().event("e").done("e").event("x", 2, type_="X").done("x"),
        {},
    ),
    "claimed although the group does not take its type": (
        Tiny().event("e").done("e").event("x", 2, type_="X").delivered("x").inbox("x"),
        {},
    ),
    # What was never committed.
    "delivered and never committed": (Tiny().event("e").done("e").delivered("p"), {"phantom": ["p"]}),
    "applied and never committed": (Tiny().event("e").done("e").done("p"), {"phantom": ["p"]}),
    "an effect of nothing, undelivered": (
        Tiny().event("e").done("e").effect(NOBODYS),
        {"phantom": [NOBODYS], "undelivered_effect": [NOBODYS]},
    ),
    "a claim of nothing, undelivered": (
        Tiny().event("e").done("e").inbox(NOBODYS),
        {"phantom": [NOBODYS], "undelivered_effect": [NOBODYS]},
    ),
    # What came more than once.
    "delivered three times": (
        Tiny().event("e").done("e").delivered("e", "e"),
        {"duplicated_on_wire": ["e", "e"]},
    ),
    "applied three times": (
        Tiny().event("e").done("e").effect("e").effect("e"),
        {"duplicated_effects": ["e", "e"]},
    ),
    "two effects of different names": (Tiny().event("e").done("e").effect("e", "other"), {}),
    "applied and never seen delivered": (
        Tiny().event("e").inbox("e").effect("e"),
        {"undelivered_effect": ["e"]},
    ),
    # What publishers were told.
    "unknown and delivered": (
        Tiny().event("e").done("e").line("attempted", "e").line("confirmed", "e", outcomes=["unknown"]),
        {"recovered": ["e"]},
    ),
    "an attempt without an answer, and delivered": (
        Tiny().event("e").done("e").line("attempted", "e"),
        {"recovered": ["e"]},
    ),
    "unknown and never delivered": (
        Tiny().event("e").line("attempted", "e").line("confirmed", "e", outcomes=["unknown"]),
        {"lost": ["e"]},
    ),
    "confirmed and delivered": (
        Tiny().event("e").done("e").line("attempted", "e").line("confirmed", "e", outcomes=["confirmed"]),
        {},
    ),
    # Order.
    "in order": (Tiny().event("e").event("f", 2).done("e", "f"), {}),
    "the second before the first": (Tiny().event("e").event("f", 2).done("f", "e"), {"out_of_order": ["e"]}),
    "the third before the others": (
        Tiny().event("e").event("f", 2).event("h", 3).done("h", "e", "f"),
        {"out_of_order": ["e", "f"]},
    ),
    "of two aggregates": (Tiny().event("e", 1, "k").event("f", 2, "l").done("f", "e"), {}),
    "by two groups": (
        Tiny().event("e").event("f", 2).done("e", "f").done("f", group="h").done("e", group="h"),
        {"out_of_order": ["e"]},
    ),
    "without a version": (Tiny().event("e", None).event("f", None).done("f", "e"), {}),
    "a repeat of the first after the second": (
        Tiny().event("e").event("f", 2).done("e", "f").effect("e"),
        {"duplicated_effects": ["e"]},
    ),
    "on two topics": (Tiny().event("e", 1, topic="t").event("f", 2, topic="u").done("f", "e"), {}),
    "on two topics, with another group ahead on one": (
        Tiny().event("e").event("f", 2, topic="u").event("h", 3).event("i", 4)
        .done("h", "i", group="other").done("f", "e", "h", "i"),
        {},
    ),
    "on two topics, and within one": (
        Tiny().event("e").event("f", 2).event("h", 3, topic="u").done("h", "f", "e"),
        {"out_of_order": ["e"]},
    ),
    "a dead letter redone after a later one": (
        Tiny().event("e").event("f", 2).done("f", "e").letter("e"),
        {"late_by_redrive": ["e"]},
    ),
    "a dead letter redone, and a disorder beside it": (
        Tiny().event("e").event("f", 2).event("h", 3).done("h", "e", "f").letter("e"),
        {"late_by_redrive": ["e"], "out_of_order": ["f"]},
    ),
    # The client.
    "acknowledged and not stored": (
        Tiny().event("e").done("e").request("r", "acknowledged"),
        {"unstored": ["r"]},
    ),
    "rejected": (
        Tiny().event("e").done("e").request("r", "rejected"),
        {},
    ),
    # The group that keeps dead letters has no account of its own.
    "what the dead-letter group did": (
        Tiny().event("e").event("f", 2).done("e", "f").delivered("e", "p", group=DEAD).effect("f", group=DEAD)
        .effect("f", group=DEAD).effect("e", group=DEAD).inbox("p", group=DEAD),
        {},
    ),
}  # fmt: skip


def judged(run: Run, folder: Path) -> Judgement:
    return judge_folder(run.write(folder))


@pytest.mark.parametrize("case", CASES)
def test_a_tiny_history_shows_these_anomalies_with_this_evidence_and_no_other(case: str, tmp_path: Path) -> None:
    run, expected = CASES[case]
    # Forbidden: what is expected, and what is not.
    run.run["contract"] = sorted({*expected, "out_of_order", "phantom"})
    found = judged(run, tmp_path)
    assert {name: count for name, count in found.counts.items() if count and name not in QUIET} == {
        name: len(ids) for name, ids in expected.items()
    }
    assert {anomaly.name: {finding.id for finding in anomaly.first} for anomaly in found.anomalies} == {
        name: set(ids) for name, ids in expected.items()
    }
    assert (found.word == "invalid") == bool(expected)
    assert {reason.split()[0] for reason in found.reasons if " = " in reason} == expected.keys()


@pytest.mark.parametrize("case", ["delivered three times", "the second before the first", "parked"])
def test_an_anomaly_that_the_contract_allows_is_told_and_breaks_nothing(case: str, tmp_path: Path) -> None:
    run, expected = CASES[case]
    run.run["contract"] = ["lost"]
    found = judged(run, tmp_path)
    assert (found.word, found.reasons) == ("valid", [])
    assert [(anomaly.name, anomaly.forbidden) for anomaly in found.anomalies] == [(name, False) for name in expected]


@pytest.mark.parametrize("case", ["on two topics, and within one", "on two topics, with another group ahead on one"])
def test_events_on_two_topics_out_of_their_versions_order_are_told_and_allowed(case: str, tmp_path: Path) -> None:
    assert judged(CASES[case][0], tmp_path).notes["reordered_across_topics"] == 1


def test_the_counts_of_a_group_are_its_own(tmp_path: Path) -> None:
    run = Tiny().event("e").event("f", 2).done("e", "f").done("e", group="h")
    run.ledger["subscriptions"].append({"group": "h", "event_type": "T"})
    found = judged(run, tmp_path)
    shown = ("committed", "delivered", "applied", "lost")
    assert {group: [counts[name] for name in shown] for group, counts in found.groups.items()} == {
        "g": [2, 2, 2, 0],
        "h": [2, 1, 1, 1],
    }
    assert [found.counts[name] for name in shown] == [2, 3, 3, 1]


def test_before_the_drains_end_nothing_is_lost_it_is_unseen(tmp_path: Path) -> None:
    run = Tiny(contract=("lost",)).event("e").event("f", 2).delivered("e").pending("f", parked=True)
    run.run["drain"]["complete"] = False
    found = judged(run, tmp_path)
    assert (found.word, found.counts["unseen"], found.counts["lost"], found.counts["parked"]) == ("unknown", 2, 0, 0)


def test_the_clients_requests_are_counted_by_what_they_heard(tmp_path: Path) -> None:
    run = Tiny().event("e").done("e").line("requested", *"abcd", intended_ns=[2] * 4)
    run.line("answered", *"abc", outcomes=["acknowledged", "rejected", "unknown"])
    run.ledger["requests"].append({"idempotency_key": "a", "order_id": "o"})
    found = judged(run, tmp_path)
    names = ("attempted", "acknowledged", "unknown", "unstored")
    assert [found.counts[name] for name in names] == [4, 1, 2, 0]
    assert found.notes["rejected"] == 1
