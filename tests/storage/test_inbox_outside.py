"""Reserve, call, settle: a mail is neither lost nor, with an honoured key, sent twice, wherever the process dies."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Column, Connection, MetaData, String, Table, create_engine, text
from sqlalchemy.pool import NullPool

from core.inbox.claims import delete_old_claims
from core.inbox.handlers import HandlerResult
from core.inbox.outside import OutsideCaller, each_alone, reserve
from core.inbox.retries import RetryPolicy
from core.messaging.envelope import Envelope
from core.storage.outside_calls import count_reserved, outside_call_table
from tests.storage.inbox_bench import Bench, bench, count_it, drain, inbox_database, order

__all__ = ["bench", "inbox_database"]


class Killed(BaseException):
    pass


class MailServer:
    """Records every call; honours the idempotency key in `mails`, not in `calls`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dies: str = ""
        self.fails = False

    def __call__(self, row: Mapping[str, Any]) -> None:
        if self.dies == "before":
            raise Killed
        if self.fails:
            raise ConnectionError("mail server away")
        self.calls.append(row["idempotency_key"])
        if self.dies == "after":
            raise Killed

    @property
    def mails(self) -> set[str]:
        return set(self.calls)


@pytest.fixture
def mail(bench: Bench) -> Table:
    table = outside_call_table(MetaData(), "mail", Column("address", String(100), nullable=False))
    with bench.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS mail"))
        table.create(connection)
    return table


def reserves(mail: Table) -> Any:
    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        rows = [
            {"idempotency_key": f"{e.key} ORDER_CREATED", "event_id": e.id, "address": "a@b.example"} for e in envelopes
        ]
        reserve(connection, mail, rows)
        return HandlerResult(["mail"] * len(envelopes))

    return handle


def statuses(bench: Bench) -> list[Any]:
    return [status for (status,) in bench.rows("SELECT status FROM mail ORDER BY id")]


def test_each_mail_is_sent_once_and_settled_before_the_ack(bench: Bench, mail: Table) -> None:
    server = MailServer()
    caller = OutsideCaller(bench.engine, mail, each_alone(server))
    first, second = order(1), order(2)
    bench.publish(first, second, first)
    drain(bench.worker(reserves(mail), call_outside=caller.call_for))
    assert sorted(server.calls) == ["order-1 ORDER_CREATED", "order-2 ORDER_CREATED"]
    assert statuses(bench) == ["SENT", "SENT"]
    assert caller.sweep() == 0


@pytest.mark.row("S0.29")
@pytest.mark.parametrize(("dies", "calls"), [("before", 1), ("after", 2)])
def test_a_crash_around_the_call_is_swept_and_repeats_at_most_the_call(
    bench: Bench, mail: Table, dies: str, calls: int
) -> None:
    server = MailServer()
    caller = OutsideCaller(bench.engine, mail, each_alone(server), retry_after_s=0.05)
    bench.publish(order(1))
    server.dies = dies
    worker = bench.worker(reserves(mail), call_outside=caller.call_for)
    with pytest.raises(Killed):
        drain(worker)
    worker.subscriber.close()
    assert statuses(bench) == ["RESERVED"]
    server.dies = ""
    # The redelivery is a repeat for the inbox; its row is not due yet or is called for, the sweeper does the rest.
    drain(bench.worker(reserves(mail), call_outside=caller.call_for))
    while statuses(bench) != ["SENT"]:
        caller.sweep()
    assert len(server.calls) == calls
    assert server.mails == {"order-1 ORDER_CREATED"}


def test_a_failed_call_keeps_its_row_and_reason_and_does_not_stop_the_worker(bench: Bench, mail: Table) -> None:
    server = MailServer()
    server.fails = True
    caller = OutsideCaller(bench.engine, mail, each_alone(server), retry_after_s=0.01)
    bench.publish(order(1))
    drain(bench.worker(reserves(mail), call_outside=caller.call_for))
    assert bench.rows("SELECT status, last_error FROM mail") == [("RESERVED", "ConnectionError: mail server away")]
    server.fails = False
    while statuses(bench) != ["SENT"]:
        caller.sweep()
    assert bench.rows("SELECT last_error FROM mail") == [(None,)]


def test_an_event_may_want_several_calls(bench: Bench, mail: Table) -> None:
    def two(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        rows = [
            {"idempotency_key": f"{e.key} {seller}", "event_id": e.id, "address": "a"}
            for e in envelopes
            for seller in "xy"
        ]
        reserve(connection, mail, rows)
        return HandlerResult(["mail"] * len(envelopes))

    server = MailServer()
    bench.publish(order(1))
    drain(bench.worker(two, call_outside=OutsideCaller(bench.engine, mail, each_alone(server)).call_for))
    assert sorted(server.calls) == ["order-1 x", "order-1 y"]


def test_rows_are_called_for_together_and_settled_each_by_its_own_outcome(bench: Bench, mail: Table) -> None:
    handed: list[list[str]] = []

    def call_all(rows: Sequence[Mapping[str, Any]]) -> list[Exception | None]:
        handed.append([row["idempotency_key"] for row in rows])
        return [ConnectionError("away") if row["idempotency_key"] == "k-1" else None for row in rows]

    rows = [{"idempotency_key": f"k-{n}", "event_id": "e", "address": "a"} for n in range(5)]
    later = RetryPolicy(tries=None, first_delay_s=60, max_delay_s=60, jitter=False)
    with bench.engine.begin() as connection:
        reserve(connection, mail, rows)
    caller = OutsideCaller(bench.engine, mail, call_all, at_once=2, retry=later)
    assert (caller.sweep(), caller.sweep()) == (5, 0)
    assert handed == [["k-0", "k-1"], ["k-2", "k-3"], ["k-4"]]
    assert statuses(bench) == ["SENT", "RESERVED", "SENT", "SENT", "SENT"]
    wait_s = bench.rows("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM mail WHERE status = 'RESERVED'")
    assert 30 < wait_s[0][0] <= 60
    with bench.engine.connect() as connection:
        assert count_reserved(connection, [mail]) == 1


def test_what_follows_from_the_answers_is_written_with_the_rows_and_only_for_what_was_answered(
    bench: Bench, mail: Table
) -> None:
    """`settle` and SENT are one transaction; calls go out several at a time, their answers stay with their rows."""
    both_out = Barrier(2, timeout=30)

    def ask(row: Mapping[str, Any]) -> str:
        both_out.wait()
        if row["idempotency_key"] == "k-1":
            raise ConnectionError("away")
        return f"yes to {row['idempotency_key']}"

    settled: list[tuple[str, str]] = []
    written: list[Envelope] = []

    def settle(connection: Connection, answered: Sequence[tuple[Mapping[str, Any], str]]) -> Sequence[Envelope]:
        settled.extend((row["idempotency_key"], answer) for row, answer in answered)
        assert statuses(bench) == ["RESERVED", "RESERVED"]
        return [order(7)]

    class Sink:
        def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
            written.extend(envelopes)

        def after_commit(self, envelopes: Sequence[Envelope]) -> None:
            assert statuses(bench) == ["SENT", "RESERVED"]
            written.extend(envelopes)

    with bench.engine.begin() as connection:
        reserve(connection, mail, [{"idempotency_key": f"k-{n}", "event_id": "e", "address": "a"} for n in range(2)])
    call_all = each_alone(ask, threads=2)
    OutsideCaller(bench.engine, mail, call_all, at_once=2, settle=settle, sink=Sink()).sweep()
    assert settled == [("k-0", "yes to k-0")]
    assert [envelope.key for envelope in written] == ["order-7", "order-7"]


def test_a_caller_leaves_rows_to_the_sweeper_before_its_turn_is_over(bench: Bench, mail: Table) -> None:
    """Or the sweeper would believe it dead, and two would call for one row."""
    called: list[str] = []

    def slow(row: Mapping[str, Any]) -> None:
        called.append(row["idempotency_key"])
        time.sleep(0.6)

    with bench.engine.begin() as connection:
        reserve(connection, mail, [{"idempotency_key": f"k-{n}", "event_id": "e", "address": "a"} for n in range(3)])
    caller = OutsideCaller(bench.engine, mail, each_alone(slow), retry_after_s=1.0)
    caller.sweep()
    assert called == ["k-0"]
    while statuses(bench) != ["SENT"] * 3:
        caller.sweep()
    assert called == ["k-0", "k-1", "k-2"]


def test_the_sweeper_leaves_a_call_that_is_on_its_way(bench: Bench, mail: Table) -> None:
    swept: list[int] = []

    def slow(row: Mapping[str, Any]) -> None:
        swept.append(OutsideCaller(bench.engine, mail, each_alone(slow)).sweep())

    bench.publish(order(1))
    drain(bench.worker(reserves(mail), call_outside=OutsideCaller(bench.engine, mail, each_alone(slow)).call_for))
    assert swept == [0]
    assert statuses(bench) == ["SENT"]


def test_the_sweeper_passes_over_rows_that_another_caller_is_taking(bench: Bench, mail: Table) -> None:
    server = MailServer()
    impatient = create_engine(bench.engine.url, connect_args={"options": "-c lock_timeout=1s"}, poolclass=NullPool)
    rows = [{"idempotency_key": f"k-{n}", "event_id": "e", "address": "a"} for n in range(3)]
    with bench.engine.begin() as connection:
        reserve(connection, mail, rows)
    with bench.engine.begin() as other:
        other.execute(text("SELECT 1 FROM mail WHERE idempotency_key = 'k-1' FOR UPDATE"))
        assert OutsideCaller(impatient, mail, each_alone(server)).sweep() == 2
    assert server.calls == ["k-0", "k-2"]
    assert OutsideCaller(impatient, mail, each_alone(server)).sweep() == 1
    assert statuses(bench) == ["SENT"] * 3


def test_a_sweep_takes_no_more_rows_than_it_is_told_oldest_first(bench: Bench, mail: Table) -> None:
    server = MailServer()
    with bench.engine.begin() as connection:
        reserve(connection, mail, [{"idempotency_key": f"k-{n}", "event_id": "e", "address": "a"} for n in range(5)])
    assert OutsideCaller(bench.engine, mail, each_alone(server)).sweep(at_most_rows=2) == 2
    assert server.calls == ["k-0", "k-1"]


def test_one_key_is_reserved_once_whatever_event_asks(bench: Bench, mail: Table) -> None:
    row = {"idempotency_key": "k", "event_id": "e", "address": "a"}
    with bench.engine.begin() as connection:
        assert reserve(connection, mail, [row]) == {"k"}
        assert reserve(connection, mail, [row | {"event_id": "f"}]) == set()
        assert reserve(connection, mail, []) == set()


def test_old_claims_go_in_small_batches_and_young_ones_stay(bench: Bench) -> None:
    bench.publish(*(order(n) for n in range(25)))
    drain(bench.worker(count_it))
    with bench.engine.begin() as connection:
        connection.execute(text("UPDATE inbox SET handled_at = handled_at - interval '8 days' WHERE applied_no <= 20"))
    gone = [delete_old_claims(bench.engine, bench.tables, timedelta(days=7), at_most_rows=8) for _ in range(4)]
    assert gone == [8, 8, 4, 0]
    assert bench.rows("SELECT count(*) FROM inbox") == [(5,)]
