"""What a relay makes of a real broker that dies, refuses one event, has no place for it, or whose answers get lost.

Each case is one where other outboxes lose or give up events: see docs/decisions, `outbox-what-a-relay-outlives`.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from sqlalchemy import MetaData

from ablations.publish import SINKS
from ablations.relay.confirm_none import UnawaitedPublisher
from core.messaging.ports import Publisher
from core.messaging.topology import Route
from core.outbox.storage import requeue
from core.storage.schema import create_schema
from core.storage.tables import messaging_tables
from servers.lifecycle import Server
from tests.chaos.relay_world import IN_PROCESS, KEYS, LostAnswers, RelayWorld, Watched, open_world
from tests.storage.outbox_rows import event, relaying, topology_of, write
from tests.waiting import until


@pytest.fixture
def world(broker_server: Server, database: str) -> Iterator[RelayWorld]:
    made = open_world(broker_server, database)
    yield made
    made.end()


@pytest.fixture
def random() -> Random:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
    print(f"CHAOS_SEED={seed}")
    return Random(seed)


@pytest.mark.row("S0.23", "S0.38", "S1.13", "S1.14", "S1.17")
@pytest.mark.parametrize("away_s", [10.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_a_broker_killed_in_mid_relay_and_long_away_costs_repeats_and_counts_no_attempt(
    world: RelayWorld, random: Random, away_s: float
) -> None:
    killed_in_batch = random.randint(3, 10)
    is_killed = threading.Event()

    def kill() -> None:
        world.server.kill()
        is_killed.set()

    watched: list[Watched] = []

    def watch(publisher: Publisher) -> Publisher:
        watched.append(
            Watched(publisher, lambda n: threading.Thread(target=kill).start() if n == killed_in_batch else None)
        )
        return watched[0]

    world.write(range(1, 101))
    with world.relaying(watch):
        assert is_killed.wait(60)
        try:
            world.write(range(101, 111))
            away_until = time.monotonic() + away_s
            send_without_looking_at_answers(world)
            until(lambda: watched[0].outages >= 3 and time.monotonic() >= away_until, timeout_s=60 + away_s)
            assert world.scalar("SELECT count(*) FROM pending WHERE attempts > 0 OR parked_at IS NOT NULL") == 0
            assert world.scalar("SELECT count(*) FROM pending") != 0
        finally:
            world.server.start()
        world.write(range(111, 121))
        until(world.is_drained, timeout_s=60)
    # All that the outbox holds has arrived, and nothing of what was sent past it or marked unanswered.
    world.repeats_of_the_complete_wire(120)
    assert world.scalar("SELECT count(*) FROM event WHERE aggregate_id LIKE 'direct-%%'") == UNSEEN
    assert world.scalar("SELECT count(*) FROM naive.outbox_events WHERE status = 'PROCESSED'") == UNSEEN


@pytest.mark.long
@pytest.mark.row("S0.23", "S1.13")
def test_of_requests_that_go_on_while_the_broker_is_off_for_ten_seconds_the_outbox_loses_none(
    world: RelayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request writes one event through the outbox and publishes another after its commit."""
    monkeypatch.setattr("ablations.publish.direct.TIMEOUT_S", 0.2)
    sink = SINKS["after_commit"](world.tables, world.broker.publisher(), None)
    requests, has_ended = 0, threading.Event()

    def load() -> None:
        nonlocal requests
        while not has_ended.wait(0.02):
            write(world.engine, world.tables, event(f"outbox-{requests}", 1))
            direct = [event(f"direct-{requests}", 1)]
            with world.engine.begin() as connection:
                sink.write(connection, direct)
            sink.after_commit(direct)
            requests += 1

    admin = world.broker.admin()

    def arrived(kind: str) -> set[int]:
        keys = [delivery.envelope.key.partition("-") for delivery in admin.read_all("orders") if delivery.envelope]
        return {int(number) for of, _, number in keys if of == kind}

    loading = threading.Thread(target=load)
    with world.relaying():
        loading.start()
        try:
            until(lambda: requests >= 50)
            world.server.kill()
            off_from, off_until = requests + 1, time.monotonic() + 10.0
            until(lambda: time.monotonic() >= off_until)
            off_to = requests
            world.server.start()
            until(lambda: max(arrived("direct")) > off_to, timeout_s=120)
        finally:
            has_ended.set()
            loading.join(60)
        until(world.is_drained, timeout_s=60)
    sink.close()
    assert arrived("outbox") == set(range(requests))
    published, off = arrived("direct"), set(range(off_from, off_to))
    admin.close()
    assert len(off) > 20
    assert published & off == set(), "nobody asks twice"
    assert min(published) < off_from < off_to < max(published)


UNSEEN = 3


def send_without_looking_at_answers(world: RelayWorld) -> None:
    """By requests that publish after their commit, and by a relay that does not wait for the broker's answer."""
    sink = SINKS["after_commit"](world.tables, world.broker.publisher(), None)
    events = [event(f"direct-{number}", 1) for number in range(UNSEEN)]
    with world.engine.begin() as connection:
        sink.write(connection, events)
    sink.after_commit(events)
    sink.close()
    metadata = MetaData()
    tables = messaging_tables(metadata, schema="naive")
    create_schema(world.engine, metadata, tables)
    write(world.engine, tables, *(event(f"unawaited-{number}", 1) for number in range(UNSEEN)))
    publisher = UnawaitedPublisher(world.broker.publisher())
    with relaying(world.engine, tables, publisher, IN_PROCESS):
        until(lambda: world.scalar("SELECT count(*) FROM naive.pending") == 0, timeout_s=30)
    publisher.close()


@pytest.mark.row("S0.12", "S0.34")
def test_an_event_too_large_for_the_broker_parks_its_hot_key_while_the_others_go_on(world: RelayWorld) -> None:
    too_large = b'"' + b"x" * 3_000_000 + b'"'
    world.write(range(1, 5))
    write(world.engine, world.tables, event("o-0", 5, too_large), *(event(key, 5) for key in KEYS[1:]))
    world.write(range(6, 21))
    # The hot key has more events than all others together; they stand behind its fifth.
    world.write(range(21, 301), KEYS[:1])
    with world.relaying():
        until(lambda: world.scalar("SELECT count(*) FROM pending WHERE key <> 'o-0'") == 0, timeout_s=30)
        until(lambda: world.scalar("SELECT count(*) FROM outbox_events WHERE status = 'FAILED'") == 1, timeout_s=30)
        world.write(range(21, 301), KEYS[1:])
        until(lambda: world.scalar("SELECT count(*) FROM pending WHERE key <> 'o-0'") == 0, timeout_s=30)
        assert [version for version, _ in world.wire()["o-0"]] == [1, 2, 3, 4]
        assert world.scalar("SELECT attempts FROM pending WHERE parked_at IS NOT NULL") == 5
        with world.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE event SET payload = '{}' WHERE length(payload) > 1000000")
            assert requeue(connection, world.tables, ["o-0"]) == 1
        until(world.is_drained, timeout_s=30)
    assert world.repeats_of_the_complete_wire(300) == 0


def test_an_event_that_no_topic_takes_is_kept_with_its_reason_until_the_topic_is_there(world: RelayWorld) -> None:
    refund = event("r-1", 1, type="RefundMade")._replace(topic="refunds")
    write(world.engine, world.tables, refund, event("r-1", 2, type="RefundMade")._replace(topic="refunds"))
    world.write(range(1, 11))
    with world.relaying():
        until(lambda: world.scalar("SELECT count(*) FROM pending WHERE parked_at IS NOT NULL") == 1, timeout_s=30)
        until(lambda: world.scalar("SELECT count(*) FROM pending") == 2, timeout_s=30)
        assert "refunds" in str(world.scalar("SELECT last_error FROM pending WHERE parked_at IS NOT NULL"))
    routes = {**topology_of("").routes, "RefundMade": Route("refunds", "refund.made")}
    subscriptions = {"billing": frozenset(routes)}
    world.broker = world.connect(replace(topology_of(world.prefix), routes=routes, subscriptions=subscriptions))
    admin = world.broker.admin()
    admin.declare()
    with world.engine.begin() as connection:
        assert requeue(connection, world.tables) == 1
    with world.relaying():
        until(world.is_drained, timeout_s=30)
    arrived = [delivery.envelope for delivery in admin.read_all("refunds")]
    assert [envelope.sequence for envelope in arrived if envelope is not None] == [1, 2]
    admin.close()
    assert world.repeats_of_the_complete_wire(10) == 0


def test_answers_lost_for_one_key_repeat_its_events_and_hold_no_other_key(world: RelayWorld, random: Random) -> None:
    key = random.choice(KEYS)
    made: list[LostAnswers] = []

    def lose(publisher: Publisher) -> Publisher:
        made.append(LostAnswers(publisher, key))
        return made[0]

    world.write(range(1, 51))
    with world.relaying(lose):
        until(lambda: world.scalar("SELECT count(*) FROM pending") == 50 and made[0].lost > 2, timeout_s=30)
        assert world.scalar("SELECT max(attempts) FROM pending") == 0
        made[0].is_losing = False
        until(world.is_drained, timeout_s=30)
    assert world.repeats_of_the_complete_wire(50) >= 2
