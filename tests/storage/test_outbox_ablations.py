"""The naive senders: each works under calm, and shows what its docstring predicts when something goes wrong."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine

from ablations.publish import SINKS
from ablations.relay import STRATEGIES, Seams, relay_factory
from ablations.relay.claim_lock import LockWithLease
from ablations.relay.polling import PollingRelay
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.outbox.relay import RelayOptions
from core.storage.tables import MessagingTables
from tests.storage.outbox_rows import Wire, event, is_empty, open_outbox, scalar, write
from tests.waiting import until

Outbox = tuple[Engine, MessagingTables]
OFTEN = RelayOptions(batch_messages=50, poll_s=0.02, lease_s=1.0, refused_wait_s=0.01, unknown_wait_s=0.02)


SHARES = "SELECT array_agg(n) FROM (SELECT count(*) n FROM bucket_lease WHERE owner IS NOT NULL GROUP BY owner) s"


@dataclass
class Busy(Wire):
    """Counts the batches that are under way at once."""

    most: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            return super().publish(batch, timeout_s)
        finally:
            with self.lock:
                self.under_way -= 1


@dataclass
class SlowFirst(Wire):
    """The first event of an aggregate takes until its second is there, a second at most."""

    second: threading.Event = field(default_factory=threading.Event)

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        if batch[0].sequence == 1:
            self.second.wait(1.0)
        outcomes = super().publish(batch, timeout_s)
        if batch[0].sequence == 2:
            self.second.set()
        return outcomes


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    engine, tables = open_outbox(database)
    yield engine, tables
    engine.dispose()


@contextmanager
def running(
    outbox: Outbox, seams: Seams, wire: Wire, relays: int = 1, options: RelayOptions | None = OFTEN
) -> Iterator[None]:
    stop = threading.Event()
    make = relay_factory(seams)
    threads = [threading.Thread(target=make(*outbox, wire, options).run, args=(stop,)) for _ in range(relays)]
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


@pytest.mark.row("S0.27")
@pytest.mark.parametrize(("strategy", "relays", "is_doubled"), [
    ("outbox-naive", 2, True), ("outbox-naive", 4, True), ("outbox-leased", 2, False), ("outbox-leased", 4, False)
])  # fmt: skip
def test_relays_without_a_claim_send_the_same_rows_and_those_with_leases_do_not(
    outbox: Outbox, strategy: str, relays: int, is_doubled: bool
) -> None:
    write(*outbox, *(event("a", version) for version in range(1, 51)))
    wire = Wire(delay_s=0.002)
    with running(outbox, STRATEGIES[strategy], wire, relays=relays):
        until(lambda: is_empty(outbox[0]))
    assert len({envelope.id for envelope in wire.sent}) == 50
    assert (len(wire.sent) > 50) == is_doubled


@pytest.mark.row("S0.31")
@pytest.mark.parametrize(("claim", "at_a_time"), [("for_update", 1), ("skip_locked", 4), ("lease", 4)])
def test_behind_a_row_lock_four_relays_send_no_faster_than_one(outbox: Outbox, claim: str, at_a_time: int) -> None:
    options = RelayOptions(batch_messages=20, poll_s=0.01, lease_s=5.0)
    wire = Busy(delay_s=0.15)
    with running(outbox, Seams(claim), wire, relays=4, options=options):
        if claim == "lease":
            until(lambda: scalar(outbox[0], SHARES) == [16] * 4)
        write(*outbox, *(event(f"key-{number}", 1) for number in range(240)))
        until(lambda: is_empty(outbox[0]))
    assert len(wire.sent) == len({envelope.id for envelope in wire.sent}) == 240
    # Each batch takes the broker 0.15 s, so batches under way at once are what the rate follows.
    assert wire.most == at_a_time


@pytest.mark.row("S1.16")
def test_a_batch_a_second_holds_a_backlog_to_a_thousand_a_second_and_the_default_does_not(outbox: Outbox) -> None:
    rate_per_s = {}
    for claim, options, rows in (("skip_locked", None, 3_000), ("lease", RelayOptions(), 20_000)):
        for start in range(0, rows, 1_000):
            write(*outbox, *(event(f"{claim}-{number}", 1) for number in range(start, start + 1_000)))
        wire = Wire()
        start_s = time.monotonic()
        with running(outbox, Seams(claim), wire, options=options):
            until(lambda: is_empty(outbox[0]), timeout_s=60)
            rate_per_s[claim] = rows / (time.monotonic() - start_s)
        assert len(wire.sent) == rows
    assert rate_per_s["skip_locked"] < 1_500
    assert rate_per_s["lease"] > 2 * rate_per_s["skip_locked"]


@pytest.mark.row("S0.34")
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
    # The second went out after at least one that followed it.
    overtaken = wire.sequences("a")
    assert overtaken[0] == 1
    assert overtaken.index(2) > overtaken.index(3)


@pytest.mark.parametrize(("claim", "arrived"), [("skip_locked", [2, 1]), ("for_update", [1, 2]), ("lease", [1, 2])])
def test_where_locked_rows_are_skipped_a_second_relay_overtakes_the_first(
    outbox: Outbox, claim: str, arrived: list[int]
) -> None:
    write(*outbox, event("a", 1), event("a", 2))
    wire = SlowFirst()
    options = RelayOptions(batch_messages=1, poll_s=0.01, lease_s=5.0)
    with running(outbox, Seams(claim), wire, relays=2, options=options):
        until(lambda: is_empty(outbox[0]))
    assert wire.sequences("a") == arrived


@pytest.mark.row("S1.16")
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


@pytest.mark.row("S0.30")
@pytest.mark.parametrize(("lease_s", "is_doubled"), [(0.1, True), (30.0, False)])
def test_a_batch_that_outlasts_the_lock_s_lease_is_sent_by_a_second_relay_too(
    outbox: Outbox, lease_s: float, is_doubled: bool
) -> None:
    write(*outbox, *(event("a", version) for version in range(1, 31)))
    wire, stop = Wire(delay_s=0.02), threading.Event()
    relays = [PollingRelay(LockWithLease(lease_s), True, True, *outbox, wire, OFTEN) for _ in range(2)]
    threads = [threading.Thread(target=relay.run, args=(stop,)) for relay in relays]
    for thread in threads:
        thread.start()
    until(lambda: is_empty(outbox[0]))
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert len({envelope.id for envelope in wire.sent}) == 30
    assert (len(wire.sent) > 30) == is_doubled


@pytest.mark.row("S0.30")
def test_leases_are_renewed_while_a_batch_outlasts_them_and_no_second_relay_sends_it(outbox: Outbox) -> None:
    write(*outbox, *(event(f"key-{number}", 1) for number in range(100)))
    wire = Busy(delay_s=1.0)
    options = RelayOptions(batch_messages=100, poll_s=0.02, lease_s=0.3)
    with running(outbox, Seams(), wire, options=options):
        # All are in flight with the first relay, for more than three leases, when the second one comes.
        until(lambda: wire.under_way == 1)
        with running(outbox, Seams(), wire, options=options):
            until(lambda: is_empty(outbox[0]))
    assert len(wire.sent) == len({envelope.id for envelope in wire.sent}) == 100


def test_a_lock_with_a_lease_lets_a_second_relay_in_when_a_batch_takes_longer(outbox: Outbox) -> None:
    lock = LockWithLease(lease_s=0.05)
    assert lock.enter(outbox[0], "first")
    assert not LockWithLease(lease_s=0.05).enter(outbox[0], "second")
    until(lambda: LockWithLease(lease_s=5).enter(outbox[0], "second"))
