"""Relays as real processes on real brokers: killed, paused past the lease, four at once, without their database."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ablations.consume import Consume, worker_class
from core.inbox.worker import WorkerOptions
from servers.lifecycle import Server
from tests.chaos.relay_world import KEYS, RelayWorld, open_world
from tests.storage.inbox_bench import count_it
from tests.waiting import until

VERSIONS = 200


@pytest.fixture
def world(broker_server: Server, database: str) -> Iterator[RelayWorld]:
    made = open_world(broker_server, database, groups=INBOXES)
    yield made
    made.end()


@pytest.mark.parametrize("step", ["confirmed", "cleared"])
@pytest.mark.row("S0.25", "S0.35")
def test_a_relay_killed_after_the_confirm_repeats_one_batch_at_most_and_loses_nothing(
    world: RelayWorld, step: str
) -> None:
    world.write(range(1, VERSIONS + 1))
    killed = world.start("first", crash_at=step)
    assert killed.wait(timeout=60) == -signal.SIGKILL
    # Confirmed and not marked: the batch is still pending. Cleared: it is gone, the next one is confirmed already.
    left = {"confirmed": len(KEYS) * VERSIONS, "cleared": len(KEYS) * VERSIONS - 100}[step]
    assert world.scalar("SELECT count(*) FROM pending") == left
    world.start("second")
    until(world.is_drained, timeout_s=60)
    assert world.repeats_of_the_complete_wire(VERSIONS) == 100
    if step == "confirmed":
        # Two copies of a hundred events: two effects each without an inbox, one with it.
        events = len(KEYS) * VERSIONS
        assert [effects(world, inbox, events + 100) for inbox in INBOXES] == [events + 100, events]


INBOXES = ("off", "atomic")


def effects(world: RelayWorld, inbox: str, deliveries: int) -> int:
    """How many a consumer with this inbox makes of all that is on the wire."""
    subscriber = world.broker.subscriber(inbox, 500)
    options = WorkerOptions(batch_messages=500, receive_timeout_s=0.2)
    worker = worker_class(Consume(inbox=inbox))(world.engine, world.tables, subscriber, inbox, count_it, options)
    handed_over, give_up_at = 0, time.monotonic() + 60
    while handed_over < deliveries:
        assert time.monotonic() < give_up_at, f"{handed_over} of {deliveries} were handed over"
        handed_over += worker.step()
    subscriber.close()
    assert handed_over == deliveries
    return int(str(world.scalar(f"SELECT count(*) FROM effect WHERE consumer_group = '{inbox}'")))


def test_a_relay_paused_past_its_lease_wakes_and_marks_nothing(world: RelayWorld) -> None:
    world.write(range(1, VERSIONS + 1))
    paused = world.start("paused", batch_messages=20)
    until(lambda: world.scalar("SELECT count(*) FROM cleared") != 0, timeout_s=60)
    os.kill(paused.pid, signal.SIGSTOP)
    world.start("other")
    # Two leases and more: the other relay takes everything over and empties the outbox.
    until(world.is_drained, timeout_s=60)
    os.kill(paused.pid, signal.SIGCONT)
    shared = "SELECT count(DISTINCT owner) FROM bucket_lease WHERE leased_until > clock_timestamp()"
    until(lambda: world.scalar(shared) == 2, timeout_s=30)
    # Its late copies carry the ids of the first ones, which is how an inbox knows them.
    assert world.repeats_of_the_complete_wire(VERSIONS) <= 2 * 20
    # Each event was marked once: what the paused relay had in hand was not marked a second time.
    assert world.scalar("SELECT sum(cardinality(event_ids)) FROM cleared") == len(KEYS) * VERSIONS


def test_four_relays_share_the_buckets_and_send_everything_once_and_in_order(world: RelayWorld) -> None:
    for owner in ("one", "two", "three", "four"):
        world.start(owner, batch_messages=20, lease_s=5.0)
    shares = "SELECT array_agg(n) FROM (SELECT count(*) n FROM bucket_lease WHERE owner IS NOT NULL GROUP BY owner) s"
    until(lambda: world.scalar(shares) == [16, 16, 16, 16], timeout_s=60)
    keys = [f"o-{number}" for number in range(40)]
    for start in range(1, 41, 10):
        world.write(range(start, start + 10), keys)
    until(world.is_drained, timeout_s=60)
    assert world.repeats_of_the_complete_wire(40, keys) == 0


def test_relays_outlive_the_kill_of_their_database(world: RelayWorld, postgres_server: Server) -> None:
    world.write(range(1, VERSIONS + 1))
    world.start("one", batch_messages=20)
    world.start("two", batch_messages=20)
    until(lambda: world.scalar("SELECT count(*) FROM cleared") != 0, timeout_s=60)
    postgres_server.kill()
    postgres_server.start()
    world.engine.dispose()
    until(world.is_drained, timeout_s=60)
    world.repeats_of_the_complete_wire(VERSIONS)
