"""Dead letters become rows, and a row can be redone once: effect, inbox row and closed letter together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from threading import Thread
from time import monotonic

import pytest
from sqlalchemy import Connection, text

from brokers.memory import connect
from core.inbox.dead_letters import (
    Answer,
    CannotRedo,
    DeadLetterService,
    GroupSetup,
    Redone,
    list_letters,
    redo,
    redo_all,
    show_letter,
)
from core.inbox.handlers import HandlerResult, Poison, known_types
from core.inbox.letters import envelope_of, row_of
from core.inbox.worker import WorkerOptions
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure
from core.messaging.topology import DEAD_LETTER_GROUP, Route
from tests.storage.inbox_bench import GROUP, TOPOLOGY, Bench, bench, count_it, drain, inbox_database, order

__all__ = ["bench", "inbox_database"]


def refuse(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    raise Poison(envelopes[0].id, "the gateway's contract is gone")


def with_letters(bench: Bench, *events: Envelope, group: str = GROUP) -> None:
    bench.publish(*events)
    drain(bench.worker(refuse, group=group))
    service = DeadLetterService(bench.engine, bench.tables, bench.broker.subscriber(DEAD_LETTER_GROUP), None)
    while service.step():
        pass


@pytest.fixture
def cured() -> dict[str, GroupSetup]:
    return {GROUP: GroupSetup(count_it), "others": GroupSetup(count_it)}


def test_a_letter_becomes_one_row_with_all_that_is_known(bench: Bench) -> None:
    event = order(1, schema_version=3, correlation_id="c-1", headers=(("trace", b"\x00\xff"),))
    with_letters(bench, event, event)
    (row,) = list_letters(bench.engine, bench.tables)
    assert (row["topic"], row["consumer_group"], row["event_id"], row["event_type"], row["key"]) == (
        "orders",
        GROUP,
        event.id,
        "OrderCreated",
        "order-1",
    )
    assert (row["reason"], row["attempts"]) == ("the gateway's contract is gone", 1)
    assert envelope_of(dict(row)) == event


def test_two_groups_can_give_up_the_same_event(bench: Bench) -> None:
    event = order(1)
    with_letters(bench, event)
    with_letters(bench, group="others")
    assert [row["consumer_group"] for row in list_letters(bench.engine, bench.tables)] == [GROUP, "others"]
    assert len(list_letters(bench.engine, bench.tables, group="others")) == 1


def test_a_hundred_letters_redone_twice_are_a_hundred_effects(bench: Bench, cured: dict[str, GroupSetup]) -> None:
    events = [order(n) for n in range(100)]
    with_letters(bench, *events)
    first = redo_all(bench.engine, bench.tables, cured)
    second = redo_all(bench.engine, bench.tables, cured)
    assert [answer.outcome for answer in first] == [Redone.REDONE] * 100
    assert second == []
    assert redo(bench.engine, bench.tables, first[0].letter_id, cured).outcome is Redone.CLOSED
    assert sorted(bench.effects()) == sorted(e.id for e in events)


def test_two_redos_at_the_same_time_apply_once(bench: Bench, cured: dict[str, GroupSetup]) -> None:
    with_letters(bench, order(1))
    (row,) = list_letters(bench.engine, bench.tables)
    answers: list[Redone] = []
    threads = [
        Thread(target=lambda: answers.append(redo(bench.engine, bench.tables, row["id"], cured).outcome))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [Redone.CLOSED] * 3 + [Redone.REDONE]
    assert len(bench.effects()) == 1


def test_a_second_redo_waits_for_the_first_and_does_nothing(bench: Bench) -> None:
    with_letters(bench, order(1))
    (row,) = list_letters(bench.engine, bench.tables)
    calls: list[int] = []
    answers: list[Answer] = []

    def slow(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        calls.append(len(envelopes))
        deadline = monotonic() + 20.0
        while not bench.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            assert monotonic() < deadline, "the second redo did not wait"
        return count_it(connection, envelopes)

    def once() -> None:
        answers.append(redo(bench.engine, bench.tables, row["id"], {GROUP: GroupSetup(slow)}))

    threads = [Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert [answer.outcome for answer in answers] == [Redone.REDONE, Redone.CLOSED]
    assert answers[1].reason.startswith("closed at ")


def test_a_redo_that_fails_changes_nothing_but_the_reason_and_holds_its_key(bench: Bench) -> None:
    first, second, other = order(1, key="k"), order(2, key="k", sequence=2), order(3, key="free")
    with_letters(bench, first, second, other)

    def half_cured(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        connection.execute(
            text("INSERT INTO effect (consumer_group, event_id, effect) SELECT 'x', gen_random_uuid(), 'x'")
        )
        if envelopes[0].id == first.id:
            raise ValueError("still no price")
        return count_it(connection, envelopes)

    answers = redo_all(bench.engine, bench.tables, {GROUP: GroupSetup(half_cured)})
    assert sorted(answer.outcome for answer in answers) == [Redone.FAILED, Redone.REDONE]
    assert bench.effects() == [other.id]
    assert bench.rows("SELECT count(*) FROM effect WHERE consumer_group = 'x'") == [(1,)]
    found = bench.rows(
        "SELECT event_id, reason, attempts, redone_at IS NULL FROM failed_event WHERE key = 'k' ORDER BY id"
    )
    assert sorted(found) == sorted(
        [
            (first.id, "ValueError: still no price", 2, True),
            (second.id, "the gateway's contract is gone", 1, True),
        ]
    )


def test_a_letter_whose_event_was_applied_meanwhile_is_only_closed(bench: Bench, cured: dict[str, GroupSetup]) -> None:
    event = order(1)
    with_letters(bench, event)
    bench.publish(event)
    drain(bench.worker(count_it))
    (answer,) = redo_all(bench.engine, bench.tables, cured)
    assert answer.outcome is Redone.CLOSED
    assert bench.effects() == [event.id]
    assert list_letters(bench.engine, bench.tables) == []
    assert len(list_letters(bench.engine, bench.tables, with_redone=True)) == 1


def test_a_malformed_letter_is_kept_and_cannot_be_redone(bench: Bench, cured: dict[str, GroupSetup]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    malformed = Delivery(
        None, "orders", 0, None, error="no id", body=b"\x00{", wire_headers=(("k", b"\xff"),), key="a\0"
    )
    row = row_of(malformed, "orders", GROUP, Failure("malformed: no id", 1, now, now))
    with bench.engine.begin() as connection:
        connection.execute(bench.tables.failed_event.insert(), row)
    (answer,) = redo_all(bench.engine, bench.tables, cured)
    assert answer.outcome is Redone.MALFORMED
    kept = show_letter(bench.engine, bench.tables, answer.letter_id)
    assert kept is not None
    assert bytes(kept["body"]) == b"\x00{"


def test_no_such_letter_is_an_error_that_says_so(bench: Bench) -> None:
    with pytest.raises(CannotRedo, match="there is no dead letter 0"):
        redo(bench.engine, bench.tables, 0, {})


def test_a_letter_whose_group_nobody_here_handles_is_left_and_named_and_the_others_are_redone(bench: Bench) -> None:
    events = [order(1), order(2)]
    bench.publish(*events)
    drain(bench.worker(refuse))
    with_letters(bench, group="others")
    answers = redo_all(bench.engine, bench.tables, {GROUP: GroupSetup(count_it)})
    unknown = f"group 'others' is not known here; the groups there are: {GROUP}"
    assert Counter((answer.outcome, answer.reason) for answer in answers) == {
        (Redone.UNHANDLED, unknown): 2,
        (Redone.REDONE, ""): 2,
    }
    assert sorted(bench.effects()) == sorted(event.id for event in events)
    assert [row["consumer_group"] for row in list_letters(bench.engine, bench.tables)] == ["others", "others"]


def test_after_the_redo_a_waiting_key_goes_on_in_order(bench: Bench, cured: dict[str, GroupSetup]) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(4)]
    broken = True

    def sometimes(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if broken and any(e.id == events[0].id for e in envelopes):
            raise Poison(events[0].id, "no price")
        return count_it(connection, envelopes)

    options = WorkerOptions(receive_timeout_s=0.05, after_dead_letter="wait")
    bench.publish(*events[:3])
    drain(bench.worker(sometimes, options))
    assert bench.effects() == []
    broken = False
    redo_all(bench.engine, bench.tables, {GROUP: GroupSetup(sometimes)})
    bench.publish(events[3])
    drain(bench.worker(sometimes, options))
    assert bench.effects() == [e.id for e in events]


def test_a_reason_that_no_text_column_holds_is_kept_and_told_without_what_it_cannot_hold(bench: Bench) -> None:
    def refuse_the_name(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        raise Poison(envelopes[0].id, "nobody is called a\0b")

    bench.publish(order(1))
    drain(bench.worker(refuse_the_name))
    service = DeadLetterService(bench.engine, bench.tables, bench.broker.subscriber(DEAD_LETTER_GROUP), None)
    while service.step():
        pass
    (row,) = list_letters(bench.engine, bench.tables)
    assert row["reason"] == "nobody is called a\N{REPLACEMENT CHARACTER}b"
    answer = redo(bench.engine, bench.tables, row["id"], {GROUP: GroupSetup(refuse_the_name)})
    assert answer.outcome is Redone.FAILED
    assert [row["attempts"] for row in list_letters(bench.engine, bench.tables)] == [2]


def test_a_key_that_no_text_column_holds_waits_behind_its_letter_and_stops_no_other(bench: Bench) -> None:
    odd = [order(n, key="a\0b", sequence=n + 1) for n in range(2)]
    plain = order(9)

    def refuse_the_first(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if any(envelope.id == odd[0].id for envelope in envelopes):
            raise Poison(odd[0].id, "no price")
        return count_it(connection, [envelope for envelope in envelopes if envelope.id == plain.id])

    bench.publish(*odd, plain)
    drain(bench.worker(refuse_the_first, WorkerOptions(receive_timeout_s=0.05, after_dead_letter="wait")))
    assert bench.effects() == [plain.id]
    assert [id_ for id_, _ in bench.letters()] == [event.id for event in odd]


def test_letters_of_an_unknown_type_and_of_a_newer_version_are_redone_once_after_the_upgrade(bench: Bench) -> None:
    today = known_types({"OrderCreated": 1, "OrderPaid": 1})
    after = known_types({"OrderCreated": 2, "OrderPaid": 1, "OrderReturned": 1})
    newer = replace(TOPOLOGY, routes={**TOPOLOGY.routes, "OrderReturned": Route("orders", "order.returned")})
    stranger, version_2, fine = order(1, type="OrderReturned"), order(2, schema_version=2), order(3)
    sent = connect(bench.broker.config, newer).publisher().publish([stranger, version_2, fine], 5.0)
    assert all(outcome.is_confirmed for outcome in sent)
    for group in (GROUP, "others"):
        drain(bench.worker(count_it, group=group, decode=today))
    service = DeadLetterService(bench.engine, bench.tables, bench.broker.subscriber(DEAD_LETTER_GROUP), None)
    while service.step():
        pass

    unknown, too_new = "unknown event type OrderReturned", "OrderCreated version 2 is newer than 1"
    letters = list_letters(bench.engine, bench.tables)
    assert Counter((row["consumer_group"], row["event_id"], row["reason"]) for row in letters) == Counter(
        (group, id_, why)
        for group in (GROUP, "others")
        for id_, why in ((stranger.id, unknown), (version_2.id, too_new))
    )
    setups = {GROUP: GroupSetup(count_it, decode=today), "others": GroupSetup(count_it, decode=today)}
    still = redo_all(bench.engine, bench.tables, setups)
    assert sorted((answer.outcome, answer.reason.removeprefix("Poison: ")) for answer in still) == sorted(
        [(Redone.FAILED, unknown), (Redone.FAILED, too_new)] * 2
    )
    assert (bench.effects(), bench.effects("others")) == ([fine.id], [fine.id])

    setups = {
        GROUP: GroupSetup(count_it, decode=after, takes=frozenset({"OrderCreated", "OrderPaid", "OrderReturned"})),
        "others": GroupSetup(count_it, decode=after, takes=frozenset({"OrderCreated"})),
    }
    done = redo_all(bench.engine, bench.tables, setups)
    assert [answer.outcome for answer in done] == [Redone.REDONE] * 4
    assert sorted(bench.effects()) == sorted([stranger.id, version_2.id, fine.id])
    assert sorted(bench.effects("others")) == sorted([version_2.id, fine.id])
    ignored = bench.rows("SELECT consumer_group, event_id, reason FROM inbox WHERE outcome = 'ignored'")
    assert [(group, str(id_), why) for group, id_, why in ignored] == [
        ("others", stranger.id, "no handler for OrderReturned")
    ]
    assert redo_all(bench.engine, bench.tables, setups) == []
