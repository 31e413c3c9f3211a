"""The worker against a real PostgreSQL and the memory broker: what is applied, how often, in which order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Barrier, Event, Thread
from typing import Any

import pytest
from sqlalchemy import Connection, text

from core.inbox.handlers import HandlerResult, Ignored, Poison, known_types, one_by_one
from core.inbox.letters import row_of
from core.inbox.retries import RetryPolicy
from core.inbox.worker import WorkerOptions
from core.journey import Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure
from tests.storage.inbox_bench import GROUP, Bench, bench, count_it, drain, inbox_database, order

__all__ = ["bench", "inbox_database"]


def test_a_message_published_twice_is_applied_once(bench: Bench) -> None:
    first, second = order(1), order(2)
    bench.publish(first, second, first)
    worker = bench.worker(count_it)
    drain(worker)
    bench.publish(second)
    drain(worker)
    assert bench.effects() == [first.id, second.id]
    assert bench.rows("SELECT count(*), count(DISTINCT event_id) FROM inbox") == [(2, 2)]


@pytest.mark.row("S1.19")
def test_the_inbox_has_one_row_a_group_and_event_and_tells_when_it_was_handled(bench: Bench) -> None:
    columns = bench.rows(
        """SELECT c.column_name, data_type, is_nullable, k.column_name IS NOT NULL FROM information_schema.columns c
           LEFT JOIN information_schema.key_column_usage k
                  ON k.table_name = c.table_name AND k.column_name = c.column_name
           WHERE c.table_name = 'inbox' AND c.column_name IN ('consumer_group', 'event_id', 'handled_at')
           ORDER BY c.ordinal_position"""
    )
    assert columns == [
        ("consumer_group", "character varying", "NO", True),
        ("event_id", "uuid", "NO", True),
        ("handled_at", "timestamp with time zone", "NO", False),
    ]
    event = order(1)
    bench.publish(event, event)
    before = bench.rows("SELECT clock_timestamp()")[0][0]
    drain(bench.worker(count_it))
    ((id, handled_at),) = bench.rows("SELECT CAST(event_id AS text), handled_at FROM inbox")
    assert id == event.id
    assert before <= handled_at <= bench.rows("SELECT clock_timestamp()")[0][0]


def test_effects_within_a_key_are_applied_in_the_order_of_delivery(bench: Bench) -> None:
    events = [order(n, key=f"k{n % 3}", sequence=n // 3 + 1) for n in range(60)]
    bench.publish(*events)
    drain(bench.worker(count_it, WorkerOptions(batch_messages=7, receive_timeout_s=0.05)))
    applied = bench.effects()
    for key in ("k0", "k1", "k2"):
        ids = [event.id for event in events if event.key == key]
        assert [id for id in applied if id in ids] == ids


def test_an_id_in_capitals_is_the_same_id(bench: Bench) -> None:
    event = order(1)
    shouted = event._replace(id=event.id.upper())
    bench.publish(shouted, event, order(2))
    drain(bench.worker(count_it))
    assert len(bench.effects()) == 2
    assert bench.effects()[0] == event.id


def test_an_id_that_only_comes_in_capitals_is_applied(bench: Bench) -> None:
    event = order(1)
    bench.publish(event._replace(id=event.id.upper()))
    drain(bench.worker(count_it))
    assert bench.effects() == [event.id]


@pytest.mark.parametrize("spell", [str.upper, lambda id: id.replace("-", "")], ids=["capitals", "no hyphens"])
def test_an_id_in_another_spelling_is_a_repeat_within_a_batch_and_across_batches(bench: Bench, spell: Any) -> None:
    first, second = order(1), order(2)
    bench.publish(first, first._replace(id=spell(first.id)), second._replace(id=spell(second.id)))
    drain(bench.worker(count_it))
    bench.publish(first._replace(id=spell(first.id)), second)
    drain(bench.worker(count_it))
    assert sorted(bench.effects()) == sorted([first.id, second.id])


def test_ids_are_claimed_in_their_order_so_that_two_workers_wait_instead_of_deadlocking(bench: Bench) -> None:
    events = [order(n) for n in range(50)]
    bench.publish(*reversed(events))
    drain(bench.worker(count_it))
    claimed = [str(id) for (id,) in bench.rows("SELECT event_id FROM inbox ORDER BY applied_no")]
    assert claimed == sorted(event.id for event in events)


def test_two_groups_each_apply_the_same_event(bench: Bench) -> None:
    event = order(1)
    bench.publish(event)
    drain(bench.worker(count_it))
    drain(bench.worker(count_it, group="others"))
    assert (bench.effects(GROUP), bench.effects("others")) == ([event.id], [event.id])


def test_an_ignored_event_leaves_a_row_with_its_reason_and_no_effect(bench: Bench) -> None:
    events = [order(n) for n in range(4)]
    bench.publish(*events)

    def odd_ones(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        return HandlerResult(["odd" if int(e.data) % 2 else Ignored('even, said "so"') for e in envelopes])

    drain(bench.worker(odd_ones))
    assert set(bench.effects()) == {events[1].id, events[3].id}
    found = bench.rows("SELECT outcome, reason, count(*) FROM inbox GROUP BY 1, 2 ORDER BY 1")
    assert found == [("applied", None, 2), ("ignored", 'even, said "so"', 2)]


def test_several_effects_of_one_event_are_several_journal_rows(bench: Bench) -> None:
    event = order(1)
    bench.publish(event)
    drain(bench.worker(one_by_one({"OrderCreated": lambda connection, envelope: ("stock", 'said "so", \\{x}')})))
    assert bench.rows("SELECT effect FROM effect ORDER BY applied_no") == [("stock",), ('said "so", \\{x}',)]


def test_one_poison_message_among_ten_thousand_costs_only_itself(bench: Bench) -> None:
    events = [order(n, key=f"k{n % 500}", sequence=n // 500 + 1) for n in range(10_000)]
    bad = events[4_321]
    bench.publish(*events)
    tries: list[float] = []

    def refuses_one(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if any(e.id == bad.id for e in envelopes):
            if len(envelopes) == 1:
                tries.append(1)
            raise ValueError("this one has no price")
        return count_it(connection, envelopes)

    drain(bench.worker(refuses_one))
    applied = bench.effects()
    assert sorted(applied) == sorted(e.id for e in events if e is not bad)
    assert bench.letters() == [(bad.id, "ValueError: this one has no price")]
    assert len(tries) == 3
    behind = [e.id for e in events if e.key == bad.key and e is not bad]
    assert [id for id in applied if id in behind] == behind


def test_a_message_that_succeeds_at_the_third_try_is_applied_before_the_later_ones_of_its_key(bench: Bench) -> None:
    events = [order(n, key="k" if n != 2 else "free", sequence=n + 1) for n in range(5)]
    bench.publish(*events)
    failures = iter(range(4))  # whole batch, alone, then two retries alone: the next try succeeds

    def fails_at_first(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        if any(e.id == events[1].id for e in envelopes) and next(failures, None) is not None:
            raise ValueError("not yet")
        return count_it(connection, envelopes)

    options = WorkerOptions(receive_timeout_s=0.05, retry=RetryPolicy(tries=9, first_delay_s=0.01, jitter=False))
    drain(bench.worker(fails_at_first, options))
    applied = bench.effects()
    assert [id for id in applied if id != events[2].id] == [events[n].id for n in (0, 1, 3, 4)]
    assert applied.index(events[2].id) < applied.index(events[1].id)
    assert bench.letters() == []


def test_a_handler_that_names_the_poison_saves_the_search_for_it(bench: Bench) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(5)]
    bench.publish(*events)
    calls: list[int] = []

    def names_it(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        calls.append(len(envelopes))
        for e in envelopes:
            if e.id == events[2].id:
                raise Poison(e.id, "negative price")
        return count_it(connection, envelopes)

    drain(bench.worker(names_it))
    assert bench.effects() == [events[n].id for n in (0, 1, 3, 4)]
    assert bench.letters() == [(events[2].id, "negative price")]
    assert calls == [5, 5, 2, 3, 2]


def test_what_only_the_commit_would_refuse_is_the_fault_of_its_own_message(bench: Bench) -> None:
    with bench.engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock (id integer PRIMARY KEY)"))
        connection.execute(text("INSERT INTO stock SELECT generate_series(0, 4)"))
        connection.execute(
            text("CREATE TABLE next_event (stock integer REFERENCES stock DEFERRABLE INITIALLY DEFERRED)")
        )
    events = [order(n) for n in range(6)]
    bench.publish(*events)

    def refers(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        connection.execute(text("INSERT INTO next_event VALUES (:id)"), [{"id": int(e.data)} for e in envelopes])
        return count_it(connection, envelopes)

    drain(bench.worker(refers))
    assert sorted(bench.effects()) == sorted(e.id for e in events[:5])
    assert [id for id, _ in bench.letters()] == [events[5].id]


def test_an_unknown_type_or_a_newer_version_becomes_a_dead_letter_at_once(bench: Bench) -> None:
    fine, unknown, newer = order(1), order(2, type="OrderPaid"), order(3, schema_version=2)
    bench.publish(fine, unknown, newer)
    drain(bench.worker(count_it, decode=known_types({"OrderCreated": 1})))
    assert bench.effects() == [fine.id]
    assert sorted(bench.letters()) == sorted(
        [(unknown.id, "unknown event type OrderPaid"), (newer.id, "OrderCreated version 2 is newer than 1")]
    )


def test_an_id_that_is_no_uuid_becomes_a_dead_letter_and_its_batch_goes_on(bench: Bench) -> None:
    ids = ["17", "a,b", 'q"uote', "{}", "NULL", " ", "0" * 400]
    bad = [order(n)._replace(id=id) for n, id in enumerate(ids)]
    good = [order(n) for n in range(100, 103)]
    bench.publish(good[0], *bad[:3], good[1], *bad[3:], good[2])
    drain(bench.worker(count_it), quiet_steps=5)
    assert sorted(bench.effects()) == sorted(e.id for e in good)
    assert sorted(id for id, _ in bench.letters()) == sorted(ids)


def test_next_events_are_written_in_the_same_transaction_or_not_at_all(bench: Bench) -> None:
    told: list[str] = []

    class Sink:
        def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
            connection.execute(
                text("INSERT INTO next_event VALUES (:id)"), [{"id": envelope.key} for envelope in envelopes]
            )

        def after_commit(self, envelopes: Sequence[Envelope]) -> None:
            told.extend(envelope.key for envelope in envelopes)

    with bench.engine.begin() as connection:
        connection.execute(text("CREATE TABLE next_event (id text)"))
    good, bad = order(1, key="good"), order(2, key="bad")
    bench.publish(good, bad)

    def publishes(connection: Connection, envelope: Envelope) -> HandlerResult:
        if envelope.key == "bad":
            connection.execute(text("INSERT INTO next_event VALUES ('half done')"))
            raise Poison(envelope.id, "bad")
        return HandlerResult(["saved"], [envelope])

    drain(bench.worker(one_by_one({"OrderCreated": publishes}), sink=Sink()))
    assert bench.rows("SELECT id FROM next_event") == [("good",)]
    assert told == ["good"]


def test_two_workers_with_the_same_messages_at_the_same_time_apply_each_once(bench: Bench) -> None:
    events = [order(n) for n in range(500)]
    deliveries = Bench.worker(bench, count_it)
    bench.publish(*events)
    received = deliveries.subscriber.receive(1_000, 1.0)
    assert len(received) == 500
    both = Barrier(2)

    def apply(batch: Sequence[Any]) -> None:
        worker = bench.worker(count_it)
        both.wait()
        for _ in range(3):
            worker.apply(batch)

    threads = [Thread(target=apply, args=(batch,)) for batch in (received, received[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bench.effects()) == sorted(e.id for e in events)


def test_a_deadlock_repeats_the_whole_batch_and_counts_no_attempt(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with bench.engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock AS SELECT n AS id, 0 AS taken FROM generate_series(1, 2) n"))
    bench.publish(order(1), order(2))
    first_locked, second_locked = Event(), Event()
    victims: list[int] = []

    def takes_both(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        victims.append(len(envelopes))
        connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
        connection.execute(text("UPDATE stock SET taken = taken + 1 WHERE id = 1"))
        first_locked.set()
        assert second_locked.wait(5)
        connection.execute(text("UPDATE stock SET taken = taken + 1 WHERE id = 2"))
        return count_it(connection, envelopes)

    def rival() -> None:
        with bench.engine.begin() as connection:
            connection.execute(text("SET LOCAL deadlock_timeout = '10s'"))
            connection.execute(text("UPDATE stock SET taken = taken + 1 WHERE id = 2"))
            assert first_locked.wait(5)
            second_locked.set()
            connection.execute(text("UPDATE stock SET taken = taken + 1 WHERE id = 1"))

    thread = Thread(target=rival)
    thread.start()
    drain(bench.worker(takes_both, WorkerOptions(receive_timeout_s=0.05, retry=RetryPolicy(tries=1))))
    thread.join()
    assert victims == [2, 2]
    assert bench.rows("SELECT taken FROM stock ORDER BY id") == [(2,), (2,)]
    # Not searched for a bad message: the whole batch is repeated after a wait.
    assert caplog.messages == ["database failed, the batch is repeated"]
    assert (len(bench.effects()), bench.letters()) == (2, [])


def test_a_connection_killed_in_mid_transaction_repeats_the_whole_batch(bench: Bench) -> None:
    bench.publish(order(1), order(2))
    calls: list[int] = []

    def killed_once(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        calls.append(len(envelopes))
        if len(calls) == 1:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with bench.engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        return count_it(connection, envelopes)

    drain(bench.worker(killed_once, WorkerOptions(receive_timeout_s=0.05, retry=RetryPolicy(tries=1))))
    assert calls == [2, 2]
    assert (len(bench.effects()), bench.letters()) == (2, [])


@pytest.mark.parametrize(("after_dead_letter", "applied"), [("follow", [0, 2, 3]), ("wait", [0])])
def test_later_messages_of_a_dead_letters_key_follow_or_wait(
    bench: Bench, after_dead_letter: Any, applied: list[int]
) -> None:
    events = [order(n, key="k", sequence=n + 1) for n in range(4)]
    free = order(9, key="free")
    bench.publish(*events[:3], free)

    def refuses_the_second(connection: Connection, envelope: Envelope) -> str:
        if envelope.id == events[1].id:
            raise Poison(envelope.id, "never")
        return "done"

    options = WorkerOptions(receive_timeout_s=0.05, after_dead_letter=after_dead_letter)
    handler = one_by_one({"OrderCreated": refuses_the_second})
    drain(bench.worker(handler, options))
    bench.publish(events[0], events[3])
    # Another worker: what holds the key must not live in the first one's memory.
    restarted = bench.worker(handler, options)
    drain(restarted)
    assert [id for id in bench.effects() if id != free.id] == [events[n].id for n in applied]
    assert free.id in bench.effects()
    expected = [events[n].id for n in range(4) if n not in applied]
    assert sorted(id for id, _ in bench.letters()) == sorted(expected)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("topic", "group", "key", "is_malformed", "is_held"),
    [
        ("orders", GROUP, "k", False, True),
        ("payments", GROUP, "k", False, False),
        ("orders", "others", "k", False, False),
        ("orders", GROUP, "other key", False, False),
        ("orders", GROUP, "k", True, False),  # nobody could redo it
    ],
)
def test_a_letter_holds_its_key_in_its_topic_for_its_group(
    bench: Bench, topic: str, group: str, key: str, is_malformed: bool, is_held: bool
) -> None:
    given_up = Delivery(None if is_malformed else order(1, key=key), topic, 0, None, key=key)
    with bench.engine.begin() as connection:
        row = row_of(given_up, topic, group, Failure("no price", 1, NOON, NOON))
        connection.execute(bench.tables.failed_event.insert(), row)
        # Someone else's letter for the same topic makes the worker look closely.
        row = row_of(Delivery(order(9), "orders", 0, None), "orders", GROUP, Failure("no price", 1, NOON, NOON))
        connection.execute(bench.tables.failed_event.insert(), row)
    event = order(2, key="k")
    bench.publish(event, order(3, key="order-9"))
    drain(bench.worker(count_it, WorkerOptions(receive_timeout_s=0.05, after_dead_letter="wait")))
    assert bench.effects() == ([] if is_held else [event.id])


def test_each_step_is_reached_in_order_and_with_the_right_ids(bench: Bench) -> None:
    reached: list[tuple[str, int, tuple[str, ...]]] = []

    class Notes:
        def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
            reached.append((str(step), len(ids), tuple(outcomes or ())))
            assert group == GROUP

    first, second = order(1, key="a"), order(2, key="a", sequence=2)
    bench.publish(first, second, first)
    handler = one_by_one({"OrderCreated": lambda c, e: Ignored("no") if e.id == second.id else "yes"})
    drain(bench.worker(handler, probe=Notes()))
    assert reached == [
        ("delivered", 3, ()),
        ("claimed", 2, ()),
        ("effected", 2, ()),
        ("applied", 2, ("applied", "ignored")),
        ("acked", 3, ()),
    ]
