"""What is shown of an event: every line and every row that speaks of it, in order; of many the lowest ids."""

from pathlib import Path
from uuid import UUID

from analysis.checkers import loss
from analysis.checkers.evidence import Finding, Moment, find_id, first_ids, lives
from analysis.checkers.facts import load
from analysis.checkers.verdict import EVIDENCE, judge_folder
from tests.histories.driven import clean_driven_run
from tests.histories.test_literal_histories import Tiny


def number(n: int) -> str:
    return str(UUID(int=n))


def test_of_many_findings_the_twenty_lowest_ids_are_kept_each_with_its_groups_in_order(tmp_path: Path) -> None:
    run = Tiny()
    run.ledger["subscriptions"].append({"group": "h", "event_type": "T"})
    for n in reversed(range(11)):
        run.event(number(n), n + 1)
    found = judge_folder(run.write(tmp_path))
    [lost] = found.anomalies
    assert (lost.count, lost.first) == (22, [Finding(group, number(n)) for n in range(10) for group in ("g", "h")])
    assert list(found.lives) == [number(n) for n in range(10)]


def test_an_id_is_found_in_whatever_speaks_of_it_and_nowhere_else(tmp_path: Path) -> None:
    run = Tiny().event("only an event").line("leased", "only seen").effect("only an effect").inbox("only a claim")
    with load(run.write(tmp_path)) as facts:
        told = [find_id(facts, f"only {what}") for what in ("an event", "seen", "an effect", "a claim")]
        assert len(set(told)) == 4
        assert None not in told
        assert find_id(facts, "nobody's") is None


def test_of_no_ids_there_are_no_lives(tmp_path: Path) -> None:
    with load(Tiny().event("e").write(tmp_path)) as facts:
        assert lives(facts, []) == {}


def test_a_life_is_told_in_milliseconds_from_its_own_first_line_and_in_order(tmp_path: Path) -> None:
    run = Tiny().event("e").event("f", 2)
    run.ledger["events"][0]["correlation_id"] = "c-e"
    run.ledger["events"][1]["correlation_id"] = "c-f"
    own = run.history["all-1.ndjson"]
    start = 1_790_000_000_000_000_000

    def say(lines: list[dict[str, object]], t_ns: int, step: str, id_: str, **fields: object) -> None:
        lines.append({"t_ns": start + t_ns, "step": step, "ids": [id_], **fields})

    other = run.history["b-2.ndjson"] = [own[0] | {"pid": 2}]
    say(own, 0, "requested", "c-e", intended_ns=[0])
    say(own, 1_234_567, "delivered", "e", group="h")
    say(own, 1_234_567, "delivered", "e", group="g")
    say(own, 1_234_567, "acked", "e", group="g")
    say(own, 9_000_000, "delivered", "f", group="g")
    say(other, 1_234_567, "delivered", "e", group="g")
    say(own, 500_000, "attempted", "e")
    with load(run.write(tmp_path)) as facts:
        told = lives(facts, ["f", "e"])
    assert told["e"][:-1] == [
        Moment(0.0, "requested", None, None, "all-1"),
        Moment(0.5, "attempted", None, None, "all-1"),
        Moment(1.235, "acked", "g", None, "all-1"),
        Moment(1.235, "delivered", "g", None, "all-1"),
        Moment(1.235, "delivered", "g", None, "b-2"),
        Moment(1.235, "delivered", "h", None, "all-1"),
    ]
    assert told["f"][:-1] == [Moment(0.0, "delivered", "g", None, "all-1")]


def test_a_life_ends_with_every_ledger_row_of_the_event_and_with_no_other(tmp_path: Path) -> None:
    run = Tiny().event("e", None).event("f", 7).letter("e", group="h").pending("e").pending("e")
    run.inbox("e", group="h").inbox("e").inbox("e").effect("e", "second").effect("e", "first").effect("e", group="h")
    run.ledger["effects"].append(run.ledger["effects"][0])
    run.letter("e").letter("e").letter("e")
    run.ledger["failed_events"][1]["reason"] = "worse"
    run.ledger["pending"][1] |= {"parked": True, "last_error": "too large"}
    run.ledger["inbox"][1]["reason"] = "known"
    run.pending("f").inbox("f").effect("f").letter("f")
    del run.ledger["pending"][2]["parked"]
    run.event("nobody asks of", 8).pending("nobody asks of").inbox("nobody asks of").effect("nobody asks of")
    with load(run.write(tmp_path)) as facts:
        told = lives(facts, ["e", "f"])
    assert [tuple(moment)[1:] for moment in told["e"]] == [
        ("in the database", None, "T of a k", "ledger/events"),
        ("still in the outbox", None, "parked: too large", "ledger/pending"),
        ("still in the outbox", None, "pending", "ledger/pending"),
        ("in the inbox", "g", "applied", "ledger/inbox"),
        ("in the inbox", "g", "applied: known", "ledger/inbox"),
        ("in the inbox", "h", "applied", "ledger/inbox"),
        ("effect", "g", "second", "ledger/effects"),
        ("effect", "g", "second", "ledger/effects"),
        ("effect", "g", "first", "ledger/effects"),
        ("effect", "h", "done", "ledger/effects"),
        ("dead letter", "g", "bad", "ledger/failed_events"),
        ("dead letter", "g", "bad", "ledger/failed_events"),
        ("dead letter", "g", "worse", "ledger/failed_events"),
        ("dead letter", "h", "bad", "ledger/failed_events"),
    ]
    assert [tuple(moment)[1:] for moment in told["f"]] == [
        ("in the database", None, "T of a k version 7", "ledger/events"),
        ("still in the outbox", None, "pending", "ledger/pending"),
        ("in the inbox", "g", "applied", "ledger/inbox"),
        ("effect", "g", "done", "ledger/effects"),
        ("dead letter", "g", "bad", "ledger/failed_events"),
    ]


def test_a_row_that_the_ledger_has_twice_is_shown_twice(tmp_path: Path) -> None:
    run = Tiny().event("e").pending("e").pending("e").inbox("e").inbox("e")
    with load(run.write(tmp_path)) as facts:
        [told] = lives(facts, ["e"]).values()
    assert [moment.step for moment in told] == ["in the database", *["still in the outbox"] * 2, *["in the inbox"] * 2]


def test_each_id_is_told_in_its_own_words_whether_it_is_a_uuid_or_not(tmp_path: Path) -> None:
    run = Tiny().event("e").event(number(5), 2).delivered(number(7), "p")
    with load(run.write(tmp_path)) as facts:
        loss.uncertain_publishes(facts)
        loss.account(facts, drained=True)
        assert {id_ for _, id_ in first_ids(facts, EVIDENCE["lost"])} == {"e", number(5)}
        assert {id_ for _, id_ in first_ids(facts, EVIDENCE["phantom"])} == {number(7), "p"}


def test_a_message_at_broker_level_that_was_never_confirmed_is_told_so(tmp_path: Path) -> None:
    run = clean_driven_run(messages=20)
    [first, second] = (line["ids"][0] for line in run.lines("requested"))
    run.lines("confirmed")[0]["outcomes"][0] = "unknown"
    with load(run.write(tmp_path)) as facts:
        told = lives(facts, [first, second])
    assert [told[id_][-1].step for id_ in (first, second)] == ["never confirmed", "confirmed by the broker"]
