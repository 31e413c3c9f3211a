"""What is too old goes, by a relay that runs, and what must stay stays; nothing that fails here ends anything."""

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from core.domain.events import ORDER_EVENTS
from core.messaging.outcomes import refused
from core.storage.cleaning import clean, clean_regularly
from testbed import wiring
from testbed.role_process import RoleProcess
from testbed.settings import read_settings
from tests.storage.outbox_rows import Wire, event, is_empty, relaying, scalar, write
from tests.waiting import until

AWAY = {"BROKER": "kafka", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "PUBLISH_TIMEOUT_S": "1"}
LETTER = (
    "INSERT INTO failed_event (topic, consumer_group, event_id, headers, body, reason, attempts, first_failed_at, "
    "last_failed_at, redone_at) VALUES ('orders', 'g', :id, '{}', '', 'r', 1, now(), now(), :redone_at)"
)


@pytest.fixture
def shop(database: str) -> Iterator[wiring.Database]:
    made = wiring.open_database(read_settings(database_url=database))
    made.create()
    yield made
    made.engine.dispose()


def change(shop: wiring.Database, sql: str, **given: Any) -> None:
    with shop.engine.begin() as connection:
        connection.execute(text(sql), given)


def names(shop: wiring.Database, column: str, table: str) -> set[str]:
    with shop.engine.connect() as connection:
        return set(connection.execute(text(f"SELECT {column} FROM {table}")).scalars())


def sent(shop: wiring.Database, key: str, left_the_outbox: str) -> str:
    """The id of an event that left the outbox so long ago."""
    one = event(key, 1)
    write(shop.engine, shop.messaging, one)
    with relaying(shop.engine, shop.messaging, Wire()):
        until(lambda: is_empty(shop.engine))
    change(
        shop,
        "UPDATE cleared SET cleared_at = clock_timestamp() - CAST(:age AS interval) "
        "WHERE event_ids && ARRAY(SELECT id FROM event WHERE aggregate_id = :key)",
        age=left_the_outbox,
        key=key,
    )
    return one.id


def handled(shop: wiring.Database, event_id: str, why: str, ago: str) -> None:
    """`why`: kept in the claim's reason, to know it by."""
    sql = (
        "INSERT INTO inbox (consumer_group, event_id, reason, handled_at) "
        "VALUES ('g', CAST(:id AS uuid), :why, clock_timestamp() - CAST(:ago AS interval))"
    )
    change(shop, sql, id=event_id, why=why, ago=ago)


def answered(shop: wiring.Database, key: str, ago: str) -> None:
    sql = (
        "INSERT INTO request (caller, idempotency_key, digest, status, answer, resource_id, answered_at) "
        "VALUES ('c', :key, '', 201, '{}', 'o', clock_timestamp() - CAST(:ago AS interval))"
    )
    change(shop, sql, key=key, ago=ago)


@contextmanager
def relay_process(database: str, log: Path) -> Iterator[RoleProcess]:
    environment = {"DATABASE_URL": database, "RETENTION_CHECK_S": "0.2", **AWAY}
    relay = RoleProcess("relay", [sys.executable, "-m", "testbed.cli", "relay"], log, environment)
    relay.start()
    try:
        yield relay
    finally:
        relay.end()


@pytest.mark.row("S0.13")
def test_a_running_relay_deletes_what_is_too_old_although_its_broker_is_away_keeps_the_rest_and_ends_when_asked(
    shop: wiring.Database, database: str, tmp_path: Path
) -> None:
    old = sent(shop, "old", "7 days 1 hour")
    young = sent(shop, "young", "6 days 23 hours")
    sent(shop, "again", "8 days")
    back = "INSERT INTO pending (id, bucket, key, parked_at, next_try_at) SELECT id, 0, aggregate_id, now(), now() "
    change(shop, back + "FROM event WHERE aggregate_id = 'again'")
    write(shop.engine, shop.messaging, event("parked", 1))
    with relaying(shop.engine, shop.messaging, Wire(lambda e: refused("no"))):
        until(lambda: scalar(shop.engine, "SELECT count(*) FROM pending WHERE parked_at IS NOT NULL") == 2)
    write(shop.engine, shop.messaging, event("waits", 1)._replace(topic=ORDER_EVENTS))
    change(shop, "UPDATE event SET occurred_at = clock_timestamp() - interval '40 days'")

    letter, redone = event("letter", 1).id, event("redone", 1).id
    change(shop, LETTER, id=letter, redone_at=None)
    change(shop, LETTER, id=redone, redone_at="2026-01-01T00:00:00Z")
    handled(shop, event("any", 1).id, "30 days 1 hour", "30 days 1 hour")
    handled(shop, event("any", 1).id, "29 days 23 hours", "29 days 23 hours")
    handled(shop, old, "its event goes", "31 days")
    handled(shop, young, "its event stays", "31 days")
    handled(shop, letter, "its letter is open", "31 days")
    handled(shop, redone, "its letter is closed", "31 days")
    answered(shop, "30 days 1 hour", "30 days 1 hour")
    answered(shop, "29 days 23 hours", "29 days 23 hours")

    with relay_process(database, tmp_path / "relay.log") as relay:
        until(lambda: "30 days 1 hour" not in names(shop, "idempotency_key", "request") or relay.exit_code)
    assert relay.exit_code == 0, (tmp_path / "relay.log").read_text()
    assert names(shop, "aggregate_id || ' ' || status", "outbox_events") == {
        "young PROCESSED",
        "parked FAILED",
        "again FAILED",
        "waits PENDING",
    }
    assert names(shop, "reason", "inbox") == {"29 days 23 hours", "its event stays", "its letter is open"}
    assert names(shop, "idempotency_key", "request") == {"29 days 23 hours"}


def test_two_processes_do_not_clean_one_table_at_once(shop: wiring.Database) -> None:
    stop, is_in, may_go = threading.Event(), threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        is_in.set()
        assert may_go.wait(60)
        yield 1

    def quick() -> Iterator[int]:
        yield 2

    with ThreadPoolExecutor(1) as other:
        first = other.submit(clean, shop.engine, {"event": slow}, stop)
        try:
            assert is_in.wait(60)
            assert clean(shop.engine, {"event": quick, "inbox": quick}, stop) == {"inbox": 2}
        finally:
            may_go.set()
        assert first.result(60) == {"event": 1}
    until(lambda: clean(shop.engine, {"event": quick}, stop) == {"event": 2})


def test_a_clean_up_that_fails_is_logged_and_tried_again_and_holds_no_other_up(
    shop: wiring.Database, caplog: pytest.LogCaptureFixture
) -> None:
    stop, rounds = threading.Event(), list[str]()

    def broken_once() -> Iterator[int]:
        rounds.append("event")
        if rounds.count("event") == 1:
            raise RuntimeError("nobody foresaw this")
        yield 1

    def well() -> Iterator[int]:
        rounds.append("inbox")
        if rounds.count("inbox") == 2:
            stop.set()
        yield 1

    clean_regularly(shop.engine, {"event": broken_once, "inbox": well}, 0.05, stop)
    assert rounds == ["event", "inbox", "event", "inbox"]
    (failure,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert failure.getMessage() == "clean-up failed, it is tried again next time"
    assert failure.exc_info is not None


def test_a_clean_up_stops_after_the_batch_it_is_at(shop: wiring.Database) -> None:
    stop = threading.Event()

    def endless() -> Iterator[int]:
        while True:
            stop.set()
            yield 3

    assert clean(shop.engine, {"event": endless, "inbox": endless}, stop) == {"event": 3}
