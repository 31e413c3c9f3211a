"""The naive senders: each works under calm, and shows what its docstring predicts when something goes wrong."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine

from ablations.publish import SINKS
from ablations.relay import STRATEGIES, Seams, relay_factory
from ablations.relay.claim_lock import LockWithLease
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.outbox.relay import RelayOptions
from core.storage.tables import MessagingTables
from tests.storage.outbox_rows import Wire, event, is_empty, open_outbox, scalar, until, write

Outbox = tuple[Engine, MessagingTables]
OFTEN = RelayOptions(batch_messages=50, poll_s=0.02, lease_s=1.0, refused_wait_s=0.01, unknown_wait_s=0.02)


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    engine, tables = open_outbox(database)
    yield engine, tables
    engine.dispose()


@contextmanager
def running(outbox: Outbox, seams: Seams, wire: Wire, relays: int = 1) -> Iterator[None]:
    stop = threading.Event()
    make = relay_factory(seams)
    threads = [threading.Thread(target=make(*outbox, wire, OFTEN).run, args=(stop,)) for _ in range(relays)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=20)


@pytest.mark.parametrize("seams", [*STRATEGIES.values(), Seams(confirm="none"), Seams(order="ignore")])
def test_every_relay_sends_all_once_and_in_order_under_calm(outbox: Outbox, seams: Seams) -> None:
    for version in range(1, 6):
        write(*outbox, event("a", version), event("b", version))
    wire = Wire()
    with running(outbox, seams, wire):
        until(lambda: is_empty(outbox[0]) and len(wire.sent) == 10)
    assert (wire.sequences("a"), wire.sequences("b")) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])


def test_two_relays_without_claim_send_twice(outbox: Outbox) -> None:
    write(*outbox, *(event("a", version) for version in range(1, 51)))
    wire = Wire(delay_s=0.002)
    with running(outbox, STRATEGIES["outbox-naive"], wire, relays=2):
        until(lambda: is_empty(outbox[0]))
    assert len(wire.sent) > 50


@pytest.mark.parametrize("seams", [STRATEGIES["outbox-naive"], Seams(order="ignore")])
def test_with_order_ignored_a_refused_event_is_overtaken(outbox: Outbox, seams: Seams) -> None:
    write(*outbox, *(event("a", version) for version in range(1, 6)))
    tries: list[int | None] = []

    def answer(envelope: Envelope) -> Outcome:
        tries.append(envelope.sequence)
        return refused("poison") if envelope.sequence == 2 and tries.count(2) < 3 else CONFIRMED

    wire = Wire(answer)
    with running(outbox, seams, wire):
        until(lambda: is_empty(outbox[0]))
    assert sorted(wire.sequences("a"), key=lambda version: version or 0) == [1, 2, 3, 4, 5]
    assert wire.sequences("a") != [1, 2, 3, 4, 5]


def test_unawaited_confirms_lose_what_the_broker_never_took(outbox: Outbox) -> None:
    write(*outbox, event("a", 1))
    wire = Wire(lambda envelope: unknown("broker away"))
    with running(outbox, Seams(confirm="none"), wire):
        until(lambda: is_empty(outbox[0]))
    assert wire.sent == []


def test_in_an_outage_the_naive_relay_gives_events_up(outbox: Outbox) -> None:
    write(*outbox, event("a", 1))
    with running(outbox, STRATEGIES["outbox-naive"], Wire(lambda envelope: unknown("broker away"))):
        until(lambda: scalar(outbox[0], "SELECT status FROM outbox_events") == "FAILED")


def direct(outbox: Outbox, value: str, wire: Wire, commit: Callable[[], bool]) -> None:
    sink = SINKS[value](outbox[1], wire, None, None)
    events = [event("a", 1)]
    with outbox[0].connect() as connection:
        sink.write(connection, events)
        if commit():
            connection.commit()
            sink.after_commit(events)
        else:
            connection.rollback()


def test_inline_publishing_leaves_a_phantom_when_the_transaction_rolls_back(outbox: Outbox) -> None:
    wire = Wire()
    direct(outbox, "inline", wire, lambda: False)
    assert len(wire.sent) == 1
    assert scalar(outbox[0], "SELECT count(*) FROM event") == 0


@pytest.mark.parametrize("value", ["inline", "after_commit"])
def test_direct_publishing_loses_the_event_when_the_broker_is_away(outbox: Outbox, value: str) -> None:
    wire = Wire(lambda envelope: unknown("broker away"))
    direct(outbox, value, wire, lambda: True)
    assert wire.sent == []
    assert scalar(outbox[0], "SELECT count(*) FROM event") == 1
    assert is_empty(outbox[0])


def test_publishing_after_the_commit_sends_nothing_for_what_rolled_back(outbox: Outbox) -> None:
    wire = Wire()
    direct(outbox, "after_commit", wire, lambda: False)
    assert wire.sent == []


def test_a_lock_with_a_lease_lets_a_second_relay_in_when_a_batch_takes_longer(outbox: Outbox) -> None:
    lock = LockWithLease(lease_s=0.05)
    assert lock.enter(outbox[0], "first")
    assert not LockWithLease(lease_s=0.05).enter(outbox[0], "second")
    until(lambda: LockWithLease(lease_s=5).enter(outbox[0], "second"))
