"""Tiny histories, written out, with the verdict a person would give: each definition of the checkers at its edges."""

from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.verdict import Judgement, judge_folder
from benchmarks.scenario import Scenario
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

    def event(
        self, id_: str, sequence: int | None = 1, key: str = "k", topic: str = "t", type_: str = "T", of: str = "a"
    ) -> "Tiny":
        self.ledger["events"].append(
            {"event_id": id_, "topic": topic, "event_type": type_, "aggregate_type": of, "aggregate_id": key,
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
    "parked, beside one that is applied": (
        Tiny().event("e").pending("e", parked=True).event("f", 2).done("f"),
        {"parked": ["e"]},
    ),
    "twice in the outbox, parked once": (
        Tiny().event("e").pending("e").pending("e", parked=True),
        {"parked": ["e"]},
    ),
    "a dead letter beside one that is applied": (
        Tiny().event("e").event("f", 2).delivered("e").letter("e").done("f"),
        {"dead_lettered": ["e"]},
    ),
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
    "delivered and never committed, beside a letter of nothing": (
        Tiny().event("e").done("e").delivered("p").letter(NOBODYS),
        {"phantom": ["p"], "dead_lettered": [NOBODYS]},
    ),
    # What came more than once.
    "delivered twice, beside one that came once": (
        Tiny().event("e").event("f", 2).done("e", "f").delivered("e"),
        {"duplicated_on_wire": ["e"]},
    ),
    "applied twice, beside one that the dead-letter group kept twice": (
        Tiny().event("e").event("f", 2).done("e", "f").effect("e").effect("f", group=DEAD).effect("f", group=DEAD),
        {"duplicated_effects": ["e"]},
    ),
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
    "applied and never seen delivered, beside one that is lost": (
        Tiny().event("e").inbox("e").effect("e").event("f", 2),
        {"undelivered_effect": ["e"], "lost": ["f"]},
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
    "unknown and delivered, beside one unknown and lost and one certain": (
        Tiny().event("e").event("f", 2).event("h", 3).done("e", "h").line("attempted", "e", "f", "h")
        .line("confirmed", "e", "f", "h", outcomes=["unknown", "unknown", "confirmed"]),
        {"recovered": ["e"], "lost": ["f"]},
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
    "two of one version": (Tiny().event("e").event("f").done("f", "e"), {}),
    "of two aggregates that share their id": (
        Tiny().event("e", 1, of="a").event("f", 2, of="a").event("h", 1, of="b").event("i", 2, of="b")
        .done("e", "f", "h", "i"),
        {},
    ),
    "of two aggregates of several events, the newer one first": (
        Tiny().event("e", 1, "k").event("f", 2, "k").event("h", 3, "l").event("i", 4, "l").done("h", "i", "e", "f"),
        {},
    ),
    "on two topics, after newer ones of another aggregate": (
        Tiny().event("h", 8, "l").event("i", 9, "l").event("e", 1, "k").event("f", 2, "k", topic="u")
        .done("h", "i", "f", "e"),
        {},
    ),
    "on two topics, after newer ones of an aggregate that shares its id": (
        Tiny().event("h", 8, of="b").event("i", 9, of="b").event("e", 1).event("f", 2, topic="u")
        .done("h", "i", "f", "e"),
        {},
    ),
    "the second before the first, beside a disorder of the dead-letter group": (
        Tiny().event("e").event("f", 2).event("h", 1, "l").event("i", 2, "l").done("f", "e", "h", "i")
        .effect("i", group=DEAD).effect("h", group=DEAD),
        {"out_of_order": ["e"]},
    ),
    "two dead letters redone, one of them late on its own topic": (
        Tiny().event("e").event("f", 2).event("h", 3, topic="u").done("h", "f", "e").letter("e").letter("f"),
        {"late_by_redrive": ["e"]},
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


ACROSS = {
    "on two topics": 1,
    "on two topics, with another group ahead on one": 1,
    "on two topics, and within one": 1,
    "on two topics, after newer ones of another aggregate": 1,
    "on two topics, after newer ones of an aggregate that shares its id": 1,
    "two dead letters redone, one of them late on its own topic": 1,
}
"""Cases in which so many events came after a newer one of another topic: none in the others."""


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
    assert found.notes["reordered_across_topics"] == ACROSS.get(case, 0)


@pytest.mark.parametrize("case", ["delivered three times", "the second before the first", "parked"])
def test_an_anomaly_that_the_contract_allows_is_told_and_breaks_nothing(case: str, tmp_path: Path) -> None:
    run, expected = CASES[case]
    run.run["contract"] = ["lost"]
    found = judged(run, tmp_path)
    assert (found.word, found.reasons) == ("valid", [])
    assert [(anomaly.name, anomaly.forbidden) for anomaly in found.anomalies] == [(name, False) for name in expected]


def test_a_run_whose_relay_holds_everything_back_keeps_no_promise(tmp_path: Path) -> None:
    forbids = Scenario.model_fields["forbids"].default
    run = Tiny(contract=forbids).event("e").pending("e", parked=True).event("f", 2).done("f")
    assert judged(run, tmp_path).word == "invalid"


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


@pytest.mark.parametrize(
    ("run", "counts"),
    [
        (Tiny().event("e").done("e"), {"committed": 1, "delivered": 1, "applied": 1}),
        (Tiny().event("e").delivered("e").effect("e"), {"committed": 1, "delivered": 1, "applied": 1}),
        (
            Tiny().event("e").delivered("e").inbox("e", "ignored").event("f").done("f"),
            {"committed": 2, "delivered": 2, "applied": 1, "ignored": 1},
        ),
        (
            Tiny().event("e").done("e").event("x", type_="X").delivered("x"),
            {"committed": 1, "delivered": 2, "applied": 1},
        ),
        (
            Tiny().event("e").done("e").event("x", type_="X").delivered("x").inbox("x"),
            {"committed": 1, "delivered": 2, "applied": 2},
        ),
        (Tiny().event("e").done("e").done("p"), {"committed": 1, "delivered": 2, "applied": 1, "phantom": 1}),
    ],
    ids=["applied", "effect alone", "ignored", "not asked for", "not asked for and claimed", "never committed"],
)
def test_a_group_counts_what_it_asked_for_what_it_saw_and_what_became_of_it(
    run: Tiny, counts: dict[str, int], tmp_path: Path
) -> None:
    found = judged(run, tmp_path)
    assert {name: count for name, count in found.groups["g"].items() if count} == counts


def test_groups_stand_in_the_order_of_their_names_also_one_that_saw_nothing_and_not_that_of_dead_letters(
    tmp_path: Path,
) -> None:
    run = Tiny().event("e").done("e").done("e", group=DEAD)
    run.ledger["subscriptions"] += [{"group": group, "event_type": "N"} for group in ("z", "a")]
    run.ledger["subscriptions"].append({"group": DEAD, "event_type": "T"})
    found = judged(run, tmp_path)
    assert list(found.groups) == ["a", "g", "z"]
    assert set(found.groups["a"].values()) == {0}


def test_an_event_still_in_the_outbox_after_the_drain_is_a_doubt_also_where_the_contract_allows_it(
    tmp_path: Path,
) -> None:
    found = judged(Tiny().event("e").event("f", 2).done("f").pending("e"), tmp_path)
    assert found.reasons == ["1 events are still in the outbox although the drain is called complete"]
    assert found.word == "unknown"


def test_a_run_in_which_no_group_subscribes_to_anything_proves_nothing(tmp_path: Path) -> None:
    run = Tiny().event("e")
    run.ledger["subscriptions"] = []
    found = judged(run, tmp_path)
    assert (found.word, found.reasons) == ("unknown", ["no group subscribes to anything: nothing was promised"])


def test_a_request_that_was_rejected_and_then_acknowledged_is_not_rejected(tmp_path: Path) -> None:
    run = Tiny().event("e").done("e").request("a", "rejected").line("answered", "a", outcomes=["acknowledged"])
    run.request("b", "rejected").ledger["requests"].append({"idempotency_key": "a", "order_id": None})
    found = judged(run, tmp_path)
    assert (found.counts["acknowledged"], found.counts["unknown"], found.notes["rejected"]) == (1, 0, 1)


def test_a_sentence_names_the_groups_of_an_anomaly_and_no_group_where_it_has_none(tmp_path: Path) -> None:
    run = Tiny(contract=("lost", "unstored")).event("e").done("e", group="g").delivered("e", group="h")
    run.ledger["subscriptions"].append({"group": "h", "event_type": "T"})
    found = judged(run.request("r", "acknowledged"), tmp_path)
    assert found.reasons == ["unstored = 1", "lost = 1 (h 1)"]
    assert found.contract == ["lost", "unstored"]


def test_what_is_worth_knowing_is_noted(tmp_path: Path) -> None:
    run = Tiny("U", contract=("unstored", "phantom", "parked", "lost", "unseen", "recovered"))
    run.event("e").event("f", 2).event("h", 3).event("i", 4).event("j", 5).done("e", "f").letter("e")
    run.delivered("h", "i", "j").inbox("h", "ignored").letter("h").letter("i").inbox("j", "ignored")
    own = run.history["all-1.ndjson"]
    own += [{"t_ns": 3, "step": "malformed", "group": group, "topic": "t"} for group in ("h", "g", "h")]
    own.append({"t_ns": 9, "step": "closed"})
    run.history["dead-2.ndjson"] = [own[0] | {"pid": 2}, *({"t_ns": 3, "step": "outbox"} for _ in range(2))]
    run.history["dead-3.ndjson"] = [own[0] | {"pid": 3}]
    notes = judged(run, tmp_path).notes
    assert list(notes.pop("malformed").items()) == [("g", 1), ("h", 2)]
    assert notes == {
        "reordered_across_topics": 0, "torn_files": [], "killed_processes": 2, "rejected": 0, "redone": 2,
    }  # fmt: skip


@pytest.mark.parametrize("told", [[False], [True, False], [False, True]])
def test_a_history_that_says_anywhere_that_the_drain_was_cut_short_is_believed(
    told: list[bool], tmp_path: Path
) -> None:
    run = Tiny().event("e").done("e")
    end = run.history["all-1.ndjson"].pop(1)
    run.history["all-1.ndjson"] += [end | {"complete": complete} for complete in told]
    found = judged(run, tmp_path)
    assert (found.word, found.reasons) == ("unknown", ["the history says that the drain was cut short"])
