"""The outbox on a real database: what is written, in which order it is sent, what is marked, what is kept."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count

import psycopg
import pytest
from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.outbox.decisions import Failure
from core.outbox.doorbell import Doorbell
from core.outbox.leases import LeaseTable
from core.outbox.relay import Relay, RelayOptions
from core.outbox.retention import delete_old_events
from core.outbox.rows import OutboxSink, add_events
from core.outbox.storage import PLANNER, DriverSession, OutboxStorage, measure_depth, requeue
from core.storage.event_store import VersionConflict, load
from core.storage.schema import create_schema
from core.storage.tables import BUCKETS, MessagingTables, messaging_tables
from tests.storage.outbox_rows import QUICK, Wire, event, is_empty, open_outbox, relaying, scalar, write
from tests.waiting import until

Outbox = tuple[Engine, MessagingTables]


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    engine, tables = open_outbox(database)
    yield engine, tables
    engine.dispose()


def test_an_event_written_in_a_session_exists_only_if_the_session_commits(outbox: Outbox) -> None:
    engine, tables = outbox
    with Session(engine) as session:
        add_events(session, tables, [event("o-1", 1)])
        session.rollback()
        add_events(session, tables, [event("o-1", 1), event("o-2", 1)])
        session.commit()
    assert scalar(engine, "SELECT count(*) FROM event e JOIN pending p ON p.id = e.id") == 2


def test_a_version_written_twice_is_a_named_conflict(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("o-1", 1))
    with pytest.raises(VersionConflict, match="o-1"):
        write(engine, tables, event("o-1", 1))
    assert scalar(engine, "SELECT count(*) FROM pending") == 1


@pytest.mark.row("S1.15")
def test_an_event_comes_out_as_it_went_in(outbox: Outbox) -> None:
    engine, tables = outbox
    given = Envelope(
        id="019a0000-0000-7000-8000-000000000001",
        topic="orders",
        type="OrderCreated",
        source="/shop/order",
        key="o-ü",
        sequence=1,
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
        data='{"name": "Zoë", "nested": "{\\"a\\": 1}"}'.encode(),
        schema_version=3,
        correlation_id="c-1",
        causation_id="c-0",
    )
    write(engine, tables, given)
    wire = Wire()
    with relaying(engine, tables, wire):
        until(lambda: is_empty(engine))
    assert wire.sent == [given]
    with engine.connect() as connection:
        assert list(load(connection, tables, "order", "o-ü")) == [given]


@pytest.mark.row("S0.39")
def test_each_event_has_an_id_and_no_two_have_the_same(outbox: Outbox) -> None:
    engine, tables = outbox
    first = event("o-1", 1)
    write(engine, tables, first)
    assert str(scalar(engine, "SELECT event_id FROM event")) == first.id
    with pytest.raises(IntegrityError, match="event_id"):
        write(engine, tables, event("o-2", 1)._replace(id=first.id))
    with pytest.raises(IntegrityError, match="event_id"), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET event_id = NULL")
    assert scalar(engine, "SELECT count(*) FROM event") == 1


def test_what_the_table_cannot_keep_is_refused_and_not_dropped(outbox: Outbox) -> None:
    engine, tables = outbox
    with pytest.raises(ValueError, match="headers"):
        write(engine, tables, event("o-1", 1)._replace(headers=(("trace", b"1"),)))
    with pytest.raises(ValueError, match="source"):
        write(engine, tables, event("o-1", 1)._replace(source="elsewhere"))


def test_another_service_sends_under_its_own_source(database: str) -> None:
    engine, tables = open_outbox(database, source_prefix="https://acme.example/billing/")
    given = event("i-1", 1)._replace(source="https://acme.example/billing/invoice")
    write(engine, tables, given)
    wire = Wire()
    with relaying(engine, tables, wire):
        until(lambda: is_empty(engine))
    assert wire.sent == [given]
    with engine.connect() as connection:
        assert list(load(connection, tables, "invoice", "i-1")) == [given]
    with pytest.raises(ValueError, match=r"/shop/order' is not https://acme\.example/billing/<aggregate type>"):
        write(engine, tables, event("o-1", 1))
    engine.dispose()


@pytest.mark.parametrize("prefix", ["", "/shop", "it's/", "50%/", "/a b/"])
def test_a_source_prefix_that_is_no_plain_uri_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="source_prefix"):
        messaging_tables(MetaData(), source_prefix=prefix)


def test_many_events_of_few_keys_arrive_once_and_in_order(outbox: Outbox) -> None:
    engine, tables = outbox
    for version in range(1, 101):
        write(engine, tables, *(event(f"o-{key}", version) for key in range(7)))
    wire = Wire()
    with relaying(engine, tables, wire):
        until(lambda: is_empty(engine))
    assert [wire.sequences(f"o-{key}") for key in range(7)] == [list(range(1, 101))] * 7


@pytest.mark.row("S1.15", "S1.16")
def test_a_refused_message_parks_its_key_while_other_keys_go_on_until_it_is_requeued(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, *(event(key, version) for version in (1, 2, 3) for key in ("bad", "good")))
    is_mended = threading.Event()

    def answer(envelope: Envelope) -> Outcome:
        is_poison = envelope.key == "bad" and envelope.sequence == 2 and not is_mended.is_set()
        return refused("too large") if is_poison else CONFIRMED

    wire = Wire(answer)
    with relaying(engine, tables, wire):
        until(lambda: scalar(engine, "SELECT count(*) FROM pending WHERE parked_at IS NOT NULL") == 1)
        write(engine, tables, event("good", 4), event("bad", 4))
        until(lambda: wire.sequences("good") == [1, 2, 3, 4])
        assert wire.sequences("bad") == [1]
        rows = "SELECT status || ' ' || retry_count FROM outbox_events WHERE aggregate_id = 'bad' ORDER BY id"
        with engine.connect() as connection:
            assert list(connection.exec_driver_sql(rows).scalars()) == [
                "PROCESSED 0",
                "FAILED 5",
                "PENDING 0",
                "PENDING 0",
            ]
            assert measure_depth(connection, tables)[::2] == (3, 1)
        assert scalar(engine, "SELECT last_error FROM pending WHERE parked_at IS NOT NULL") == "too large"
        is_mended.set()
        with engine.begin() as connection:
            assert requeue(connection, tables, ["good"]) == 0
            assert requeue(connection, tables) == 1
        until(lambda: is_empty(engine))
    assert wire.sequences("bad") == [1, 2, 3, 4]


def test_an_outage_is_waited_out_and_never_counted_as_an_attempt(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("o-1", 1), event("o-2", 1))
    tries = []
    is_back = threading.Event()

    def answer(envelope: Envelope) -> Outcome:
        tries.append(envelope.key)
        return CONFIRMED if is_back.is_set() else unknown("no connection")

    wire = Wire(answer)
    options = RelayOptions(poll_s=0.02, lease_s=1.0, outage_wait_s=0.001, outage_wait_max_s=0.01)
    with relaying(engine, tables, wire, options):
        until(lambda: len(tries) > 40)
        assert scalar(engine, "SELECT count(*) FROM pending WHERE attempts = 0 AND parked_at IS NULL") == 2
        is_back.set()
        until(lambda: is_empty(engine))
    assert sorted(envelope.key for envelope in wire.sent) == ["o-1", "o-2"]


def test_one_hot_key_without_answer_holds_only_itself(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, *(event(key, version) for version in range(1, 21) for key in ("hot", "a", "b")))
    is_back = threading.Event()
    wire = Wire(lambda e: CONFIRMED if is_back.is_set() or (e.key, e.sequence) != ("hot", 8) else unknown("nack"))
    with relaying(engine, tables, wire):
        until(lambda: wire.sequences("a") == wire.sequences("b") == list(range(1, 21)))
        assert wire.sequences("hot") == list(range(1, 8))
        is_back.set()
        until(lambda: is_empty(engine))
    assert wire.sequences("hot") == list(range(1, 21))


@pytest.mark.parametrize("silent", [["hot"], [f"lane-{number}" for number in range(200)]])
def test_keys_without_answer_hold_no_other_key_however_many_rows_they_have(outbox: Outbox, silent: list[str]) -> None:
    engine, tables = outbox
    # Four batches and more of them stand below the first row of the other key.
    for version in range(1, 200 // len(silent) + 11):
        write(engine, tables, *(event(key, version) for key in silent))
    write(engine, tables, *(event("good", version) for version in range(1, 121)))
    is_back = threading.Event()
    wire = Wire(lambda e: CONFIRMED if is_back.is_set() or e.key == "good" else unknown("nack"))
    with relaying(engine, tables, wire):
        until(lambda: wire.sequences("good") == list(range(1, 121)))
        assert {envelope.key for envelope in wire.sent} == {"good"}
        assert scalar(engine, "SELECT max(attempts) FROM pending") == 0
        is_back.set()
        until(lambda: is_empty(engine))
    assert all(wire.sequences(key) == list(range(1, 200 // len(silent) + 11)) for key in silent)


def test_a_transaction_that_commits_late_is_seen_below_what_was_already_sent(outbox: Outbox) -> None:
    engine, tables = outbox
    wire = Wire()
    options = RelayOptions(poll_s=0.02, lease_s=1.0, look_back_every_s=0.2)
    with relaying(engine, tables, wire, options), engine.connect() as late:
        add_events(late, tables, [event("late", 1)])
        for version in range(1, 6):
            write(engine, tables, event("early", version))
            until(lambda version=version: len(wire.sequences("early")) == version)  # type: ignore[misc]
        until(lambda: is_empty(engine))
        late.commit()
        until(lambda: wire.sequences("late") == [1])


@contextmanager
def traffic(outbox: Outbox) -> Iterator[None]:
    """Other keys' events all the while, so that reading starts ever higher."""
    stop = threading.Event()

    def run() -> None:
        for version in count(1):
            if stop.wait(0.005):
                return
            write(*outbox, event("traffic", version))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


SHORT_LOOK_BACK = RelayOptions(poll_s=0.005, lease_s=1.0, refused_wait_s=0.001, look_back_every_s=0.2)


def seen_after(engine: Engine, wire: Wire, messages: int) -> None:
    """Until so many more events were sent: the relay has looked back several times."""
    already = len(wire.sent)
    until(lambda: len(wire.sent) >= already + messages)


def test_a_late_commit_is_not_overtaken_by_the_next_event_of_its_key(outbox: Outbox) -> None:
    engine, tables = outbox
    wire = Wire()
    with traffic(outbox), relaying(engine, tables, wire, SHORT_LOOK_BACK):
        for key in ("late-1", "late-2", "late-3"):
            with engine.connect() as late:
                add_events(late, tables, [event(key, 1)])
                started_at = time.monotonic()
                until(lambda started_at=started_at: time.monotonic() > started_at + 0.7)  # type: ignore[misc]
                late.commit()
            write(engine, tables, event(key, 2))
            until(lambda key=key: len(wire.sequences(key)) == 2)  # type: ignore[misc]
            assert wire.sequences(key) == [1, 2]


def test_a_key_requeued_long_after_is_sent_from_its_oldest_event_on(outbox: Outbox) -> None:
    engine, tables = outbox
    is_mended = threading.Event()
    wire = Wire(lambda e: refused("no") if e.key.startswith("bad") and not is_mended.is_set() else CONFIRMED)
    keys = [f"bad-{number}" for number in range(5)]
    write(engine, tables, *(event(key, version) for version in (1, 2) for key in keys))
    with traffic(outbox), relaying(engine, tables, wire, SHORT_LOOK_BACK):
        until(lambda: scalar(engine, "SELECT count(*) FROM pending WHERE parked_at IS NOT NULL") == 5)
        seen_after(engine, wire, 200)
        write(engine, tables, *(event(key, 3) for key in keys))
        is_mended.set()
        for key in keys:
            with engine.begin() as connection:
                assert requeue(connection, tables, [key]) == 1
            until(lambda key=key: len(wire.sequences(key)) == 3)  # type: ignore[misc]
    assert [wire.sequences(key) for key in keys] == [[1, 2, 3]] * 5


def test_buckets_taken_over_late_are_read_from_their_oldest_event_on(outbox: Outbox) -> None:
    engine, tables = outbox
    wire = Wire()
    # Another relay, dead but with a lease that lasts: its buckets are all but that of the traffic.
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE bucket_lease SET owner = 'dead', leased_until = clock_timestamp() + interval '1 hour' "
            "WHERE bucket <> %s",
            (lane_of("traffic", BUCKETS),),
        )
    keys = [f"old-{number}" for number in range(5)]
    assert lane_of("traffic", BUCKETS) not in {lane_of(key, BUCKETS) for key in keys}
    write(engine, tables, *(event(key, 1) for key in keys))
    with traffic(outbox), relaying(engine, tables, wire, SHORT_LOOK_BACK):
        seen_after(engine, wire, 200)
        write(engine, tables, *(event(key, 2) for key in keys))
        for key in keys:
            with engine.begin() as connection:
                bucket = lane_of(key, BUCKETS)
                connection.exec_driver_sql("UPDATE bucket_lease SET owner = NULL WHERE bucket = %s", (bucket,))
            until(lambda key=key: len(wire.sequences(key)) == 2)  # type: ignore[misc]
    assert [wire.sequences(key) for key in keys] == [[1, 2]] * 5


def test_a_commit_wakes_a_relay_that_polls_rarely(outbox: Outbox) -> None:
    engine, tables = outbox
    wire = Wire()
    sink = OutboxSink(tables, Doorbell(engine))
    with relaying(engine, tables, wire, RelayOptions(poll_s=30.0, lease_s=1.0)):
        until(lambda: scalar(engine, "SELECT count(*) FROM bucket_lease WHERE owner IS NOT NULL") == 64)
        for version in (1, 2, 3):
            events = [event("o-1", version)]
            with engine.begin() as connection:
                sink.write(connection, events)
            sink.after_commit(events)
            until(lambda version=version: len(wire.sent) == version, timeout_s=20)  # type: ignore[misc]
        sink.close()
        # The relay itself sits in its poll; one more ring lets it see `stop` at once.
        last = Doorbell(engine)
        threading.Timer(0.3, last.ring).start()
    last.close()


def test_a_relay_whose_lease_was_taken_marks_nothing(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("o-1", 1))
    with DriverSession(engine) as leases, DriverSession(engine, PLANNER) as session:
        storage = OutboxStorage(session, tables)
        first = LeaseTable(leases, tables, "first", lease_s=0.001).take(64)
        rows = storage.read(list(first), 10, [])
        until(lambda: len(LeaseTable(leases, tables, "second", lease_s=60).take(64)) == 64)
        assert storage.clear(rows, first) == set()
        assert storage.fail([Failure(rows[0], 5, "no", 1.0, is_parked=True)], first) == set()
        assert scalar(engine, "SELECT count(*) FROM pending WHERE attempts = 0 AND parked_at IS NULL") == 1


def test_a_lease_ends_by_the_clock_of_the_database(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tables = outbox
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3_600)
    left = "SELECT max(extract(epoch FROM leased_until - clock_timestamp())) BETWEEN 20 AND 30 FROM bucket_lease"
    with DriverSession(engine) as session:
        table = LeaseTable(session, tables, "ahead", lease_s=30)
        held = table.take(64)
        assert scalar(engine, left) is True
        table.renew(held)
        assert scalar(engine, left) is True


def test_a_relay_without_its_tables_says_so_instead_of_waiting(outbox: Outbox) -> None:
    engine, tables = outbox
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE bucket_lease")
    with pytest.raises(psycopg.errors.UndefinedTable, match="bucket_lease"):
        Relay(engine, tables, Wire(), QUICK).run(threading.Event())


def test_a_relay_goes_on_when_its_database_was_read_only_for_a_while(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tables = outbox
    others = "datname = current_database() AND pid <> pg_backend_pid()"

    def turn(word: str) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # As after a failover: connections are lost, and the server that then answers takes no writes.
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            name = engine.url.database
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {word}")
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        engine.dispose()

    wire = Wire()
    with relaying(engine, tables, wire):
        write(engine, tables, event("o-1", 1))
        until(lambda: is_empty(engine))
        turn("on")
        until(lambda: any("in a read-only transaction" in str(vars(line).get("error")) for line in caplog.records))
        turn("off")
        write(engine, tables, event("o-1", 2))
        until(lambda: is_empty(engine))
    assert set(wire.sequences("o-1")) == {1, 2}


def test_a_take_over_waits_for_a_mark_under_way(outbox: Outbox) -> None:
    engine, tables = outbox
    with DriverSession(engine) as leases, engine.connect() as marking:
        LeaseTable(leases, tables, "first", lease_s=0.001).take(64)
        marking.exec_driver_sql("SELECT * FROM bucket_lease WHERE bucket = 7 FOR SHARE")
        # SKIP LOCKED: all but the bucket that is being marked change hands at once.
        until(lambda: len(LeaseTable(leases, tables, "second", lease_s=60).take(64)) == 63)
        marking.rollback()
        assert list(LeaseTable(leases, tables, "second", lease_s=60).take(64)) == [7]


@pytest.mark.parametrize("mark", ["clear", "fail"])
def test_a_bucket_cannot_be_taken_while_its_owner_is_marking(outbox: Outbox, mark: str) -> None:
    engine, tables = outbox
    write(engine, tables, event("o-1", 1))
    with DriverSession(engine) as leases, DriverSession(engine, PLANNER) as session, engine.connect() as blocker:
        storage = OutboxStorage(session, tables)
        held = LeaseTable(leases, tables, "first", lease_s=0.001).take(64)
        (row,) = storage.read(list(held), 10, [])
        # The mark stops at its row, with the fence behind it.
        blocker.exec_driver_sql("SELECT 1 FROM pending FOR UPDATE")
        marks = {
            "clear": lambda: storage.clear([row], held),
            "fail": lambda: storage.fail([Failure(row, 1, "no", 1.0, is_parked=False)], held),
        }
        with ThreadPoolExecutor(1) as thread:
            marked = thread.submit(marks[mark])
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            until(lambda: scalar(engine, waiting) == 1)
            table = LeaseTable(leases, tables, "second", lease_s=60)
            taken = table.take(64)
            assert set(range(BUCKETS)) - taken.keys() >= {row.bucket}
            blocker.rollback()
            assert marked.result(timeout=10) == {row.id}
        assert row.bucket in table.take(64)


def test_only_the_delete_of_confirmed_rows_commits_without_waiting_for_the_disk(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("o-1", 1), event("bad", 1))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """CREATE TABLE seen (what text, setting text);
               CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   INSERT INTO seen VALUES (TG_OP || ' ' || TG_TABLE_NAME, current_setting('synchronous_commit'));
                   RETURN NULL; END $$;
               CREATE TRIGGER fail AFTER UPDATE ON pending FOR EACH STATEMENT EXECUTE FUNCTION note();
               CREATE TRIGGER note AFTER UPDATE ON bucket_lease FOR EACH STATEMENT EXECUTE FUNCTION note();
               CREATE TRIGGER note AFTER DELETE ON pending FOR EACH STATEMENT EXECUTE FUNCTION note();"""
        )
    with relaying(engine, tables, Wire(lambda e: refused("no") if e.key == "bad" else CONFIRMED)):
        until(lambda: scalar(engine, "SELECT count(*) FROM pending WHERE parked_at IS NULL") == 0)
    found = "SELECT array_agg(DISTINCT what || ' ' || setting ORDER BY what || ' ' || setting) FROM seen"
    assert scalar(engine, found) == ["DELETE pending off", "UPDATE bucket_lease on", "UPDATE pending on"]


def test_relays_share_the_buckets_and_a_clean_stop_gives_them_back_at_once(outbox: Outbox) -> None:
    engine, tables = outbox
    options = RelayOptions(poll_s=0.02, lease_s=2.0)
    shares = "SELECT array_agg(n ORDER BY n) FROM (SELECT count(*) n FROM bucket_lease GROUP BY owner) s"
    with relaying(engine, tables, Wire(), options):
        until(lambda: scalar(engine, shares) == [64])
        with relaying(engine, tables, Wire(), options):
            until(lambda: scalar(engine, shares) == [32, 32])
        assert scalar(engine, "SELECT count(*) FROM bucket_lease WHERE owner IS NULL") in range(33)
        until(lambda: scalar(engine, shares) == [64])
    assert scalar(engine, "SELECT count(*) FROM bucket_lease WHERE owner IS NOT NULL") == 0


def test_two_relays_send_everything_once_and_in_order(outbox: Outbox) -> None:
    engine, tables = outbox
    wire = Wire()
    with relaying(engine, tables, wire), relaying(engine, tables, wire):
        until(lambda: scalar(engine, "SELECT count(DISTINCT owner) FROM bucket_lease") == 2)
        for version in range(1, 41):
            write(engine, tables, *(event(f"o-{key}", version) for key in range(20)))
        until(lambda: is_empty(engine))
    assert [wire.sequences(f"o-{key}") for key in range(20)] == [list(range(1, 41))] * 20


@pytest.mark.row("S0.13")
def test_events_go_seven_days_after_they_were_cleared_and_what_is_parked_stays(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("old", 1), event("parked", 1))
    wire = Wire(lambda e: refused("no") if e.key == "parked" else CONFIRMED)
    with relaying(engine, tables, wire):
        until(lambda: scalar(engine, "SELECT count(*) FROM pending WHERE parked_at IS NULL") == 0)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cleared SET cleared_at = clock_timestamp() - interval '6 days 23 hours'")
        connection.exec_driver_sql("UPDATE event SET occurred_at = clock_timestamp() - interval '30 days'")
    assert delete_old_events(engine, tables) == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cleared SET cleared_at = clock_timestamp() - interval '7 days 1 hour'")
    assert delete_old_events(engine, tables) == 1
    assert scalar(engine, "SELECT array_agg(aggregate_id || status) FROM outbox_events") == ["parkedFAILED"]


def test_retention_spares_what_the_caller_names_and_comes_back_for_it(outbox: Outbox) -> None:
    engine, tables = outbox
    write(engine, tables, event("sourced", 1), event("plain", 1))
    with relaying(engine, tables, Wire()):
        until(lambda: is_empty(engine))
    spare = tables.event.c.aggregate_id == "sourced"
    assert delete_old_events(engine, tables, timedelta(0), spare) == 1
    assert scalar(engine, "SELECT processed_at IS NOT NULL FROM outbox_events") is True
    assert delete_old_events(engine, tables, timedelta(0)) == 1
    assert scalar(engine, "SELECT count(*) FROM cleared") == 0


@pytest.mark.row("S0.6")
def test_the_view_has_the_columns_people_know(outbox: Outbox) -> None:
    engine, _ = outbox
    with engine.connect() as connection:
        columns = connection.exec_driver_sql(
            """SELECT column_name || ' ' || data_type || coalesce(' ' || character_maximum_length, '')
               FROM information_schema.columns WHERE table_name = 'outbox_events' ORDER BY ordinal_position"""
        ).scalars()
        assert list(columns) == [
            "id bigint",
            "aggregate_type character varying 100",
            "aggregate_id character varying 100",
            "event_type character varying 100",
            "payload text",
            "status character varying 20",
            "created_at timestamp with time zone",
            "processed_at timestamp with time zone",
            "retry_count integer",
        ]


def test_the_schema_can_be_made_by_many_at_once_and_again(outbox: Outbox) -> None:
    engine, tables = outbox
    errors: list[BaseException] = []

    def make() -> None:
        try:
            create_schema(engine, tables.event.metadata, tables)
        except BaseException as error:  # noqa: BLE001 - handed to the assertion below
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
