"""What every broker behind the port must do, once, for every profile. Profiles and faults: `profiles.py`.

`needs` names the capability without which a profile does not promise the behaviour; the matrix at the end lists it.
A group's *applied order* is the order in which ids are first seen: a repeat is what the inbox is for.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest

from core.messaging.envelope import Envelope
from core.messaging.errors import BrokerError, BrokerUnavailable, NotCapable, TopologyMismatch
from core.messaging.lanes import lane_of
from core.messaging.outcomes import Outcome, Status
from core.messaging.ports import Delivery, Failure, Publisher, Subscriber
from tests.contract.profiles import PROFILES, World, committed_kafka, config_of, ready_amqp
from tests.mixed_orders import Traffic

needs = pytest.mark.needs
one_profile_a_broker = pytest.mark.profiles("memory", "kafka", "rabbitmq-quorum-pika")
WITHIN_S = 30.0
MIB = 1_048_576
AT = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def event(
    sequence: int, key: str = "o-1", type: str = "OrderCreated", data: bytes = b'{"total": 5}', **more: object
) -> Envelope:
    """The id says key and sequence, so that the same event always has the same id."""
    id = str(UUID(int=(7 << 76) | (2 << 62) | (hash_of(key) << 24) | sequence))
    return Envelope(id, "orders", type, "/shop/order", key, sequence, AT, data)._replace(**more)  # type: ignore[arg-type]


def hash_of(key: str) -> int:
    return sum(ord(letter) * 31**place for place, letter in enumerate(key)) % (1 << 30)


def stream_of(keys: int, each: int) -> list[Envelope]:
    """Keys in turn, sequences from 1."""
    return [event(sequence, f"o-{key}") for sequence in range(1, each + 1) for key in range(keys)]


def publish(publisher: Publisher, batch: Sequence[Envelope]) -> None:
    outcomes = publisher.publish(batch, 15.0)
    assert [o for o in outcomes if not o.is_confirmed] == []
    assert len(outcomes) == len(batch)


def statuses(outcomes: Iterable[Outcome]) -> list[Status]:
    return [outcome.status for outcome in outcomes]


def publish_until_confirmed(publisher: Publisher, batch: Sequence[Envelope], timeout_s: float = 2.0) -> None:
    """As the relay does: each key again from its first message that was not confirmed."""
    deadline = time.monotonic() + WITHIN_S + 30
    left = list(batch)
    while left:
        assert time.monotonic() < deadline, f"{len(left)} messages were never confirmed"
        rest: list[Envelope] = []
        stopped: set[str] = set()
        for envelope, outcome in zip(left, publisher.publish(left, timeout_s), strict=True):
            if outcome.is_confirmed:
                assert envelope.key not in stopped, f"{envelope.key} {envelope.sequence} overtook an unconfirmed one"
            else:
                assert outcome.status is Status.UNKNOWN, outcome
                stopped.add(envelope.key)
                rest.append(envelope)
        left = rest


def receive_until(
    subscriber: Subscriber,
    enough: Callable[[list[Delivery]], bool],
    ack: bool = True,
    take: int = 500,
    within_s: float = WITHIN_S,
) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + within_s
    while not enough(found):
        assert time.monotonic() < deadline, f"only {len(found)} deliveries came: {labels(found)[-5:]}"
        batch = list(subscriber.receive(take, 0.2))
        found += batch
        if ack and batch:
            subscriber.ack(batch)
    return found


def receive(subscriber: Subscriber, count: int, ack: bool = True) -> list[Delivery]:
    found = receive_until(subscriber, lambda batch: len(batch) >= count, ack)
    assert len(found) == count, f"{len(found) - count} more than the {count} that were published: {labels(found)}"
    return found


def receive_ids(subscriber: Subscriber, batch: Sequence[Envelope]) -> list[Delivery]:
    """Until each was seen at least once."""
    wanted = {envelope.id for envelope in batch}
    return receive_until(subscriber, lambda found: wanted <= {d.envelope.id for d in found if d.envelope})


def comes_nothing(subscriber: Subscriber, for_s: float = 0.7) -> bool:
    return not subscriber.receive(10, for_s)


def envelope_of(delivery: Delivery) -> Envelope:
    assert delivery.envelope is not None, delivery.error
    return delivery.envelope


def labels(deliveries: Iterable[Delivery]) -> list[str]:
    return [f"{d.envelope.key}#{d.envelope.sequence}" if d.envelope else f"malformed {d.key}" for d in deliveries]


def applied_order(deliveries: Iterable[Delivery]) -> dict[str, list[int]]:
    """Key -> sequences by first sight."""
    seen: dict[str, dict[int, None]] = defaultdict(dict)
    for delivery in deliveries:
        envelope = envelope_of(delivery)
        seen[envelope.key][envelope.sequence or 0] = None
    return {key: list(sequences) for key, sequences in seen.items()}


def in_order(deliveries: Iterable[Delivery], batch: Sequence[Envelope]) -> None:
    """Nothing lost, nothing overtaken, by key; repeats are not counted here."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for envelope in batch:
        wanted[envelope.key].append(envelope.sequence or 0)
    found = applied_order(deliveries)
    assert found.keys() == wanted.keys()
    for key, sequences in wanted.items():
        assert sorted(found[key]) == sequences, f"{key}: lost or invented"
        assert found[key] == sequences, f"{key}: out of order, {overtakings(found[key])}"


def overtakings(sequences: Sequence[int]) -> list[tuple[int, int]]:
    return [(before, after) for before, after in pairwise(sequences) if after < before]


def log_of(world: World) -> list[Envelope]:
    """Everything in the topic's log, by the audit reader, in order per key."""
    return [envelope_of(delivery) for delivery in world.admin().read_all("orders")]


def failure(reason: str = "cannot be applied") -> Failure:
    return Failure(reason, 3, AT, AT + timedelta(seconds=9))


# Publish and receive


@pytest.mark.row("S3.4", "S0.42")
def test_what_is_published_is_received_unchanged(world: World) -> None:
    full = event(1, data='{"name": "Zoë"}'.encode(), correlation_id="c-1", causation_id="e-0", schema_version=3)
    bare = event(2)._replace(sequence=None)
    publish(world.publisher(), [full, bare])
    assert [envelope_of(d) for d in receive(world.subscriber("billing"), 2)] == [full, bare]


def test_headers_carry_any_bytes_and_names_beyond_ascii_values(world: World) -> None:
    headers = (("trace", bytes(range(256))), ("customer", "Łódź 🛒".encode()), ("empty", b""))
    publish(world.publisher(), [event(1, headers=headers)])
    (delivery,) = receive(world.subscriber("billing"), 1)
    assert envelope_of(delivery).headers == headers


def test_keys_beyond_ascii_keep_their_lane_and_their_text(world: World) -> None:
    batch = [event(n, key) for key in ("Bestellung-äöü", "注文-7", "🛒") for n in (1, 2, 3)]
    publish(world.publisher(), batch)
    found = receive(world.subscriber("billing"), 9)
    in_order(found, batch)
    assert all(d.key == envelope_of(d).key and d.lane == checksum_lane(d.key) for d in found)


def test_an_empty_body_is_delivered_as_an_empty_body(world: World) -> None:
    publish(world.publisher(), [event(1, data=b"")])
    (delivery,) = receive(world.subscriber("billing"), 1)
    assert envelope_of(delivery).data == b""


def test_one_mebibyte_is_delivered_whole(world: World) -> None:
    data = random.Random(5).randbytes(MIB)
    publish(world.publisher(), [event(1, data=data)])
    (delivery,) = receive(world.subscriber("billing"), 1)
    assert envelope_of(delivery).data == data


def test_a_message_over_the_limit_is_refused_and_its_key_stops_while_others_go_on(world: World) -> None:
    batch = [event(1, "a"), event(2, "a", data=b"x" * 5 * MIB), event(3, "a"), event(1, "b")]
    outcomes = world.publisher().publish(batch, 10.0)
    assert statuses(outcomes) == [Status.CONFIRMED, Status.REFUSED, Status.UNKNOWN, Status.CONFIRMED]
    assert outcomes[1].reason
    assert sorted(labels(receive(world.subscriber("billing"), 2))) == ["a#1", "b#1"]
    publisher = world.publisher()
    publish(publisher, [event(3, "a")])


def test_an_empty_batch_has_no_outcomes(world: World) -> None:
    assert list(world.publisher().publish([], 1.0)) == []


def test_a_topic_that_is_not_there_is_never_confirmed(world: World) -> None:
    outcomes = world.publisher().publish([event(1, topic="nowhere")], 3.0)
    assert statuses(outcomes) == [Status.REFUSED]


@needs("refuses_unroutable", audit=False, extra_topics=frozenset({"lonely"}))
def test_a_topic_without_any_queue_refuses(world: World) -> None:
    outcomes = world.publisher().publish([event(1, topic="lonely"), event(1, "b")], 5.0)
    assert statuses(outcomes) == [Status.REFUSED, Status.CONFIRMED]


def checksum_lane(key: str, lanes: int = 3) -> int:
    """Written out: `lane_of` is judged here, and must say the same in each process and as other clients do."""
    return crc32(key.encode("utf-8")) % lanes


def test_a_key_falls_into_the_lane_of_its_checksum(world: World) -> None:
    batch = [event(1, f"k-{n}") for n in range(60)]
    publish(world.publisher(), batch)
    lanes = {envelope_of(d).key: d.lane for d in receive(world.subscriber("billing"), 60)}
    assert lanes == {envelope.key: checksum_lane(envelope.key) for envelope in batch}
    assert set(lanes.values()) == {0, 1, 2}


# Order


@pytest.mark.row("S2.16")
def test_messages_of_a_key_come_in_the_order_handed_in(world: World) -> None:
    batch = stream_of(keys=7, each=60)
    publish(world.publisher(), batch)
    in_order(receive(world.subscriber("billing"), len(batch)), batch)


def test_publishers_of_different_keys_at_once_keep_each_keys_order(world: World) -> None:
    streams = [[event(n, f"p{p}-{n % 3}") for n in range(1, 121)] for p in range(3)]
    threads = [threading.Thread(target=publish, args=(world.publisher(), stream)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batch = [envelope for stream in streams for envelope in stream]
    in_order(receive(world.subscriber("billing"), len(batch)), batch)


@needs("groups")
def test_order_and_every_message_survive_members_that_come_and_go(world: World) -> None:
    batch = stream_of(keys=9, each=60)
    first = world.subscriber("billing", 50)
    publish(world.publisher(), batch[:180])
    found = receive_until(first, lambda f: len(f) >= 60, take=20)
    second = world.subscriber("billing", 50)
    publish(world.publisher(), batch[180:])
    wanted = {envelope.id for envelope in batch}
    deadline = time.monotonic() + WITHIN_S
    members = [first, second]
    while not wanted <= {envelope_of(d).id for d in found}:
        assert time.monotonic() < deadline, f"{len(found)} of {len(wanted)} came"
        for member in list(members):
            taken = list(member.receive(20, 0.05))
            found += taken
            member.ack(taken)
        if len(found) > 330 and len(members) == 2:
            first.close()
            members.remove(first)
    assert len(members) == 1, "the first member never left: nothing was handed over"
    in_order(found, batch)


@needs("groups", "spreads_lanes")
def test_a_member_that_joins_later_takes_lanes_over(world: World) -> None:
    first = world.subscriber("billing", 50)
    publisher = world.publisher()
    publish(publisher, stream_of(6, 2))
    receive(first, 12)
    second = world.subscriber("billing", 50)
    lanes: dict[str, set[int]] = {"first": set(), "second": set()}
    deadline = time.monotonic() + WITHIN_S
    sequence = 3
    while not (lanes["first"] and lanes["second"] and not lanes["first"] & lanes["second"]):
        assert time.monotonic() < deadline, f"the lanes were never shared: {lanes}"
        publish(publisher, [event(sequence, f"o-{key}") for key in range(6)])
        sequence += 1
        lanes = {
            name: {d.lane for d in receive_for(member, 0.3)} for name, member in (("first", first), ("second", second))
        }


WORK_S = 0.004
"""What one message costs its member."""


def work_at_once(members: Sequence[Subscriber], batch: Sequence[Envelope]) -> tuple[list[list[Delivery]], float]:
    """All of `batch` is on the broker: each member's share of it, and the seconds until the last was handed over."""
    left, found = {envelope.id for envelope in batch}, [list[Delivery]() for _ in members]
    give_up_at, start_s = time.monotonic() + WITHIN_S, time.monotonic()

    def run(member: Subscriber, mine: list[Delivery]) -> None:
        while left:
            assert time.monotonic() < give_up_at, f"{len(left)} of {len(batch)} did not come"
            taken = list(member.receive(10, 0.05))
            time.sleep(WORK_S * len(taken))
            left.difference_update(envelope_of(delivery).id for delivery in taken)
            mine += taken
            member.ack(taken)

    with ThreadPoolExecutor(len(members)) as threads:
        list(threads.map(run, members, found))
    return found, time.monotonic() - start_s


def settled(world: World, members: Sequence[Subscriber], shares: Sequence[int], sequence: int) -> int:
    """Until the members have these numbers of lanes, twice in a row; the next sequence that is free."""
    publisher, times = world.publisher(), 0
    deadline = time.monotonic() + WITHIN_S
    while times < 2:
        batch = [event(sequence, f"o-{key}") for key in range(30)]
        sequence += 1
        publish(publisher, batch)
        found, _ = work_at_once(members, batch)
        lanes = [len({delivery.lane for delivery in mine}) for mine in found]
        times = times + 1 if sorted(lanes) == sorted(shares) and sum(map(len, found)) == len(batch) else 0
        assert time.monotonic() < deadline, f"the members have {lanes} lanes"
    publisher.close()
    return sequence


@one_profile_a_broker
@needs("groups", "spreads_lanes")
@pytest.mark.row("S0.16", "S0.22", "S0.37", "S1.27", "S2.20")
def test_up_to_three_members_share_three_lanes_and_the_rate_rises_with_each_and_a_fourth_is_idle(world: World) -> None:
    members: list[Subscriber] = []
    took_s: list[float] = []
    sequence = 1
    for shares in ([3], [1, 2], [1, 1, 1], [0, 1, 1, 1]):
        members.append(world.subscriber("billing", 100))
        sequence = settled(world, members, shares, sequence)
        batch = [event(sequence, f"o-{key}") for key in range(150)]
        sequence += 1
        publish(world.publisher(), batch)
        found, seconds = work_at_once(members, batch)
        took_s.append(seconds)
        assert sorted(len({delivery.lane for delivery in mine}) for mine in found) == shares
        assert sum(map(len, found)) == len(batch), "one copy, whoever has it"
    assert took_s[2] < took_s[0] / 1.5
    assert took_s[1] < took_s[0]


@one_profile_a_broker
@needs("groups", "spreads_lanes", partitions=1)
@pytest.mark.row("S1.27")
def test_of_three_members_one_works_where_there_is_one_lane(world: World) -> None:
    took_s: list[float] = []
    sequence = 1
    members: list[Subscriber] = []
    for more, shares in ((1, [1]), (2, [0, 0, 1])):
        members += [world.subscriber("billing", 100) for _ in range(more)]
        sequence = settled(world, members, shares, sequence)
        batch = [event(sequence, f"o-{key}") for key in range(150)]
        sequence += 1
        publish(world.publisher(), batch)
        found, seconds = work_at_once(members, batch)
        took_s.append(seconds)
        assert sorted(map(len, found)) == [150 * share for share in shares]
    assert took_s[1] > took_s[0] / 1.5


@one_profile_a_broker
@needs("groups", "spreads_lanes")
@pytest.mark.row("S0.16")
def test_a_thousand_keys_keep_their_lane_and_their_order(world: World) -> None:
    batch = stream_of(keys=1_000, each=20)
    members = [world.subscriber("billing", 500) for _ in range(3)]
    publisher = world.publisher()
    for start in range(0, len(batch), 2_000):
        publish(publisher, batch[start : start + 2_000])
    found: list[Delivery] = []
    wanted = {envelope.id for envelope in batch}
    deadline = time.monotonic() + 2 * WITHIN_S
    while wanted:
        assert time.monotonic() < deadline, f"{len(wanted)} of {len(batch)} did not come"
        for member in members:
            taken = list(member.receive(500, 0.02))
            member.ack(taken)
            found += taken
            wanted -= {envelope_of(delivery).id for delivery in taken}
    in_order(found, batch)
    assert {(delivery.key, delivery.lane) for delivery in found} == {
        (envelope.key, checksum_lane(envelope.key)) for envelope in batch
    }


def receive_for(subscriber: Subscriber, for_s: float) -> list[Delivery]:
    found: list[Delivery] = []
    deadline = time.monotonic() + for_s
    while (left_s := deadline - time.monotonic()) > 0:
        batch = list(subscriber.receive(100, left_s))
        subscriber.ack(batch)
        found += batch
    return found


# Groups


@pytest.mark.row("S0.22")
def test_each_group_gets_all_of_its_types_and_only_those(world: World) -> None:
    batch = [event(1), event(2, type="OrderPaid"), event(3)]
    publish(world.publisher(), batch)
    assert labels(receive(world.subscriber("billing"), 3)) == ["o-1#1", "o-1#2", "o-1#3"]
    shipping = world.subscriber("shipping")
    assert labels(receive(shipping, 2)) == ["o-1#1", "o-1#3"]
    assert comes_nothing(shipping)


@needs("groups")
@pytest.mark.row("S0.22")
def test_members_of_a_group_share_one_copy(world: World) -> None:
    members = [world.subscriber("billing", 50) for _ in range(2)]
    for member in members:
        member.receive(1, 0.5)
    batch = stream_of(6, 20)
    publish(world.publisher(), batch)
    found: list[Delivery] = []
    deadline = time.monotonic() + WITHIN_S
    while len({envelope_of(d).id for d in found}) < len(batch):
        assert time.monotonic() < deadline, f"{len(found)} came"
        for member in members:
            found += receive_for(member, 0.1)
    # A lane may change hands once while both settle in; a copy for each member would be twice as much.
    assert len(found) < 2 * len(batch)
    in_order(found, batch)


@needs("groups")
def test_a_group_that_stops_does_not_stop_another_nor_the_publisher(world: World) -> None:
    stopped = world.subscriber("shipping", 5)
    batch = stream_of(3, 200)
    publisher = world.publisher()
    publish(publisher, batch[:300])
    assert receive_until(stopped, lambda found: len(found) > 0, ack=False)
    publish(publisher, batch[300:])
    in_order(receive(world.subscriber("billing"), len(batch)), batch)


@needs("replay")
@pytest.mark.row("S0.20")
def test_a_new_group_sees_old_messages(world: World) -> None:
    batch = stream_of(3, 5)
    publish(world.publisher(), batch)
    receive(world.subscriber("billing"), len(batch))
    subscriptions = {**world.topology.subscriptions, "metrics": frozenset({"OrderCreated"})}
    wider = world.another(replace(world.topology, subscriptions=subscriptions))
    in_order(receive(world.subscriber("metrics", of=wider), len(batch)), batch)


@pytest.mark.profiles("rabbitmq-quorum-pika")
@pytest.mark.row("S0.20")
def test_a_queue_holds_nothing_that_was_acked_while_the_audit_log_holds_all(world: World) -> None:
    """On Kafka the log itself is what groups read: acks take nothing out of it (the test above)."""
    batch = stream_of(3, 5)
    publish(world.publisher(), batch)
    until(lambda: sum(ready_amqp(world, "billing")), len(batch))
    subscriber = world.subscriber("billing")
    receive(subscriber, len(batch))
    # Else what was read and not acked yet would count for gone.
    subscriber.close()
    assert (sum(ready_amqp(world, "billing")), sum(ready_amqp(world, "shipping"))) == (0, len(batch))
    in_order(world.admin().read_all("orders"), batch)


@needs("replay", "groups")
def test_a_group_is_replayed_from_the_beginning_and_from_an_instant(world: World) -> None:
    batch = stream_of(3, 4)
    publisher = world.publisher()
    publish(publisher, batch[:6])
    time.sleep(0.05)  # Not a wait for something to happen: the two halves need instants that differ.
    between = datetime.now(UTC)
    time.sleep(0.05)
    publish(publisher, batch[6:])
    subscriber = world.subscriber("billing")
    receive(subscriber, len(batch))
    admin = world.admin()
    for since, wanted in ((None, batch), (between, batch[6:])):
        subscriber.close()
        admin.replay("billing", since)
        subscriber = world.subscriber("billing")
        in_order(receive(subscriber, len(wanted)), wanted)


# Acks and redelivery


@needs("groups")
def test_what_was_acked_does_not_come_again_and_the_rest_does(world: World) -> None:
    publish(world.publisher(), stream_of(1, 10))
    first = world.subscriber("billing")
    found = receive(first, 10, ack=False)
    first.ack(found[:4])
    first.close()
    again = receive(world.subscriber("billing"), 6)
    assert labels(again) == labels(found[4:])


@needs("groups", "marks_redelivery")
def test_a_redelivery_is_marked_and_a_first_delivery_is_not(world: World) -> None:
    publish(world.publisher(), [event(1)])
    first = world.subscriber("billing")
    assert [d.redelivered for d in receive(first, 1, ack=False)] == [False]
    first.close()
    assert [d.redelivered for d in receive(world.subscriber("billing"), 1)] == [True]


@needs("groups")
def test_acks_out_of_order_lose_nothing_that_is_not_acked(world: World) -> None:
    publish(world.publisher(), stream_of(1, 5))
    first = world.subscriber("billing")
    found = receive(first, 5, ack=False)
    first.ack([found[3], found[1]])
    first.close()
    again = set(labels(receive_until(world.subscriber("billing"), lambda f: len(f) >= 3)))
    assert {"o-0#1", "o-0#3", "o-0#5"} <= again


def test_no_more_than_the_prefetch_waits_unacked(world: World) -> None:
    publish(world.publisher(), stream_of(3, 40))
    subscriber = world.subscriber("billing", 9)
    held = receive_until(subscriber, lambda found: bool(found), ack=False)
    while more := list(subscriber.receive(100, 0.7)):
        held += more
        assert len(held) <= 9
    subscriber.ack(held)
    assert receive_until(subscriber, lambda found: bool(found))


def test_receive_returns_empty_handed_after_its_time_out_and_never_waits_to_fill(world: World) -> None:
    subscriber = world.subscriber("billing")
    subscriber.receive(1, 1.0)
    started = time.monotonic()
    assert not subscriber.receive(10, 0.3)
    assert 0.25 <= time.monotonic() - started < 5.0
    publish(world.publisher(), [event(1)])
    started = time.monotonic()
    assert len(receive_until(subscriber, lambda found: bool(found))) == 1
    assert time.monotonic() - started < 15.0


# Retry


def test_a_retried_message_comes_first_of_its_key_and_others_go_on(world: World) -> None:
    batch = [event(n, key) for n in (1, 2, 3) for key in ("a", "b")]
    publish(world.publisher(), batch)
    subscriber = world.subscriber("billing")
    found = receive(subscriber, 6, ack=False)
    mine = [d for d in found if d.key == "a"]
    subscriber.ack([d for d in found if d.key == "b"])
    subscriber.retry(mine[0], 3.0, mine[1:])  # Ample for one message to go round, on a slow machine too.
    publish(world.publisher(), [event(4, "a"), event(4, "b")])
    later = receive_until(subscriber, lambda f: len(f) >= 5)
    assert [label for label in labels(later) if label.startswith("a")] == ["a#1", "a#2", "a#3", "a#4"]
    assert labels(later)[0] == "b#4", "another key waited for the retry"
    assert [d.attempts for d in later if d.key == "a"] == [1, 0, 0, 0]


def test_a_retry_comes_no_sooner_than_its_delay_and_counts_its_attempts(world: World) -> None:
    publish(world.publisher(), [event(1)])
    subscriber = world.subscriber("billing")
    (delivery,) = receive(subscriber, 1, ack=False)
    for attempt, after_s in ((1, 0.0), (2, 0.4), (3, 0.8)):
        assert delivery.attempts == attempt - 1
        given_back = time.monotonic()
        subscriber.retry(delivery, after_s)
        (delivery,) = receive(subscriber, 1, ack=False)
        assert after_s <= time.monotonic() - given_back < after_s + 3.0
    assert delivery.attempts == 3
    subscriber.ack([delivery])
    assert comes_nothing(subscriber)


@needs("groups")
def test_a_retry_that_its_subscriber_never_made_comes_again_in_order(world: World) -> None:
    batch = stream_of(1, 4)
    publish(world.publisher(), batch)
    first = world.subscriber("billing")
    found = receive(first, 4, ack=False)
    first.retry(found[0], 60.0, found[1:])
    first.close()
    in_order(receive(world.subscriber("billing"), 4), batch)


# Dead letters, malformed


@pytest.mark.row("S3.19")
def test_a_dead_letter_carries_its_message_its_reason_and_where_it_came_from(world: World) -> None:
    sent = event(1, headers=(("trace", b"\x00\xff"),))
    publish(world.publisher(), [sent, event(2)])
    subscriber = world.subscriber("billing")
    found = receive(subscriber, 2, ack=False)
    assert subscriber.dead_letter(found[0], failure("no such product – Größe")).is_confirmed
    subscriber.ack(found[1:])
    (letter,) = receive(world.dead_letters(), 1)
    assert envelope_of(letter)._replace(topic="orders") == sent
    assert letter.failure == failure("no such product – Größe")
    assert (letter.failed_group, letter.origin_topic, letter.key) == ("billing", "orders", "o-1")
    assert comes_nothing(subscriber)


@needs("groups")
def test_a_dead_letter_is_acked_for_its_group_alone(world: World) -> None:
    publish(world.publisher(), [event(1)])
    subscriber = world.subscriber("billing")
    (delivery,) = receive(subscriber, 1, ack=False)
    assert subscriber.dead_letter(delivery, failure()).is_confirmed
    subscriber.close()
    assert comes_nothing(world.subscriber("billing"), 1.5)
    assert len(receive(world.subscriber("shipping"), 1)) == 1


def test_letters_of_a_key_stay_in_order(world: World) -> None:
    batch = [event(n, key) for n in (1, 2, 3) for key in ("a", "b", "c")]
    publish(world.publisher(), batch)
    subscriber = world.subscriber("billing")
    for delivery in receive(subscriber, 9, ack=False):
        assert subscriber.dead_letter(delivery, failure()).is_confirmed
    in_order(receive(world.dead_letters(), 9), batch)


def test_malformed_bytes_are_a_delivery_and_the_next_message_follows(world: World) -> None:
    world.put_raw(world, "o-1", b"\x00\xff not an event")
    publish(world.publisher(), [event(1)])
    found = receive(world.subscriber("billing"), 2)
    odd = next(d for d in found if d.envelope is None)
    assert odd.error
    assert odd.body == b"\x00\xff not an event"
    assert ("x-odd", b"\xff") in odd.wire_headers
    assert odd.topic == "orders"
    assert labels(d for d in found if d.envelope) == ["o-1#1"]


def test_a_malformed_message_can_be_dead_lettered(world: World) -> None:
    world.put_raw(world, "o-1", b"junk")
    subscriber = world.subscriber("billing")
    (odd,) = receive(subscriber, 1, ack=False)
    assert subscriber.dead_letter(odd, failure("malformed")).is_confirmed
    (letter,) = receive(world.dead_letters(), 1)
    assert (letter.envelope, letter.body, letter.failure) == (None, b"junk", failure("malformed"))
    assert letter.failed_group == "billing"


@needs("hands_over_unknown_types")
@pytest.mark.row("S2.18")
def test_a_type_that_no_route_knows_becomes_a_letter_of_each_group_of_its_topic_and_the_next_message_follows(
    world: World,
) -> None:
    stranger, reason = event(1, type="OrderReturned"), failure("unknown event type OrderReturned")
    assert world.put_foreign(world, stranger)
    known = [event(2), event(3, type="OrderPaid")]
    publish(world.publisher(), known)
    for group, taken in (("billing", known), ("shipping", known[:1])):
        subscriber = world.subscriber(group)
        found = receive(subscriber, 1 + len(taken), ack=False)
        assert [delivery.envelope for delivery in found] == [stranger, *taken]
        assert subscriber.dead_letter(found[0], reason).is_confirmed
        subscriber.ack(found[1:])
        subscriber.close()
        assert comes_nothing(world.subscriber(group))
    letters = receive(world.dead_letters(), 2)
    assert sorted((str(letter.failed_group), envelope_of(letter).type, letter.failure) for letter in letters) == [
        ("billing", "OrderReturned", reason),
        ("shipping", "OrderReturned", reason),
    ]


# Unknown outcomes


def test_silence_is_unknown_in_time_and_nothing_overtakes_afterwards(world: World) -> None:
    publisher = world.publisher(world.faulty)
    publish(publisher, [event(1)])
    world.apply("silence")
    started = time.monotonic()
    outcomes = publisher.publish([event(2), event(3)], 1.0)
    assert statuses(outcomes) == [Status.UNKNOWN, Status.UNKNOWN]
    assert time.monotonic() - started < 6.0
    world.apply("heal")
    publish_until_confirmed(publisher, [event(2), event(3), event(4)])
    sequences = [envelope.sequence or 0 for envelope in log_of(world)]
    assert list(dict.fromkeys(sequences)) == [1, 2, 3, 4]


@pytest.mark.row("S0.26")
def test_a_lost_confirm_is_unknown_and_the_message_is_there(world: World) -> None:
    publisher = world.publisher(world.faulty)
    publish(publisher, [event(1)])
    world.apply("lose_confirms")
    assert statuses(publisher.publish([event(2)], 1.5)) == [Status.UNKNOWN]
    world.apply("heal")
    assert labels(receive_until(world.subscriber("billing"), lambda f: len(f) >= 2))[:2] == ["o-1#1", "o-1#2"]
    publish_until_confirmed(publisher, [event(2), event(3)])
    log = [envelope.sequence for envelope in log_of(world)]
    assert list(dict.fromkeys(log)) == [1, 2, 3]
    # The same event twice, as far as one can see from outside: the sender's repeat carries the same id.
    assert log.count(2) >= 2


@needs("partial_refusal")
def test_one_groups_queue_that_refuses_while_others_accept_is_unknown(world: World) -> None:
    accept = world.refuse_group(world, "shipping")
    publisher = world.publisher()
    outcomes: list[Outcome] = []
    deadline = time.monotonic() + WITHIN_S
    while not outcomes or outcomes[-1].is_confirmed:
        assert time.monotonic() < deadline, "the queue never refused"
        outcomes += publisher.publish([event(len(outcomes) + 1)], 5.0)
    assert outcomes[-1].status is Status.UNKNOWN
    accepted = receive_until(world.subscriber("billing"), lambda f: len(f) >= len(outcomes))
    assert labels(accepted)[-1] == f"o-1#{len(outcomes)}", "the other group did not get it: not a partial refusal"
    accept()
    shipping = world.subscriber("shipping")
    publish_until_confirmed(publisher, [event(len(outcomes))])
    receive_until(shipping, lambda f: len(set(labels(f))) == len(outcomes))


def test_a_cut_connection_is_made_again_while_publishing_and_receiving(world: World) -> None:
    batch = stream_of(5, 60)
    publisher = world.publisher(world.faulty)
    subscriber = world.subscriber("billing", of=world.faulty)
    publish(publisher, batch[:50])
    found = receive_until(subscriber, lambda f: len(f) >= 20, take=20)
    world.apply("cut")
    world.apply("heal")
    publish_until_confirmed(publisher, batch[50:])
    wanted = {envelope.id for envelope in batch}
    found += receive_until(subscriber, lambda f: wanted <= {envelope_of(d).id for d in found + f})
    in_order(found, batch)


# The broker goes and comes back


def through_an_outage(world: World, messages: int, outage: Callable[[], None]) -> None:
    """Publish and receive across `outage`; nothing lost, nothing overtaken, repeats bounded."""
    batch = stream_of(10, messages // 10)
    publisher, subscriber = world.publisher(), world.subscriber("billing", 200)

    def send() -> None:
        for start in range(0, len(batch), 100):
            publish_until_confirmed(publisher, batch[start : start + 100])

    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send)
        found = receive_across(outage, subscriber, batch, sending)
        sending.result()
    in_order(found, batch)
    # What one outage may repeat: a batch sent again at each try while it lasts, and what was fetched and not acked.
    assert len(found) - len(batch) <= 100 * 10 + 200 + 50


def receive_across(
    outage: Callable[[], None], subscriber: Subscriber, batch: Sequence[Envelope], sending: "Future[None]"
) -> list[Delivery]:
    found = receive_until(subscriber, lambda f: len(f) >= len(batch) // 5, take=50)
    outage()
    wanted = {envelope.id for envelope in batch}
    seen = {envelope_of(d).id for d in found}
    deadline = time.monotonic() + 2 * WITHIN_S
    while not wanted <= seen and not (sending.done() and sending.exception()):
        assert time.monotonic() < deadline, f"{len(wanted - seen)} of {len(wanted)} were lost"
        taken = list(subscriber.receive(50, 0.2))
        subscriber.ack(taken)
        found += taken
        seen |= {envelope_of(d).id for d in taken}
    return found


def test_nothing_is_lost_and_order_holds_across_a_restart(world: World) -> None:
    def restart() -> None:
        world.server.stop()
        world.server.start()

    through_an_outage(world, 1_000, restart)


@needs("survives_kill")
def test_nothing_is_lost_and_order_holds_across_a_sigkill(world: World) -> None:
    def sigkill() -> None:
        world.server.kill()
        world.server.start()

    through_an_outage(world, 1_000, sigkill)


@pytest.mark.long
@needs("survives_kill")
def test_nothing_is_lost_across_a_sigkill_under_ten_thousand_messages(world: World) -> None:
    def sigkill() -> None:
        world.server.kill()
        world.server.start()

    through_an_outage(world, 10_000, sigkill)


# Consumers that are killed


def kill_consumers(world: World, folder: Path, kills: int, messages: int) -> None:
    """A member in a process of its own, with a full prefetch, SIGKILLed `kills` times at drawn moments."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    batch = stream_of(10, messages // 10)
    record = folder / "handed-over.ndjson"
    record.touch()
    publish(world.publisher(), batch)
    told = {
        "profile": world.profile,
        "address": dict(world.address),
        "prefix": world.topology.prefix,
        "partitions": world.topology.partitions,
        "prefetch_messages": messages,
        "take_messages": max(1, messages // (kills * 4)),
        "file": str(record),
    }
    root = Path(__file__).parents[2]
    for _ in range(kills):
        wanted = moments.randint(1, 3)
        lines = record.read_bytes().count(b"\n")
        # At most one batch more than waited for: what is left is enough for all the members to come.
        told["batches"] = wanted + 1
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("consumer_process.py")), json.dumps(told)],
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        world.processes.append(process)
        deadline = time.monotonic() + WITHIN_S
        while record.read_bytes().count(b"\n") < lines + wanted:
            assert time.monotonic() < deadline, f"the member got nothing (seed {seed})"
            assert process.poll() is None, f"the member ended by itself (seed {seed})"
            time.sleep(moments.uniform(0.001, 0.01))
        process.kill()
        process.wait()
    rows = [
        tuple(row)
        for line in record.read_text().splitlines(keepends=True)
        if line.endswith("\n")
        for row in json.loads(line)
    ]
    left = {(e.key, e.sequence) for e in batch} - set(rows)
    last = receive_until(world.subscriber("billing"), lambda f: left <= {(d.key, envelope_of(d).sequence) for d in f})
    order: dict[str, dict[int, None]] = defaultdict(dict)
    for key, sequence in [*rows, *((d.key, envelope_of(d).sequence or 0) for d in last)]:
        order[key][sequence] = None
    assert {key: list(seen) for key, seen in order.items()} == {
        f"o-{key}": list(range(1, messages // 10 + 1)) for key in range(10)
    }, f"seed {seed}"


@needs("groups", "survives_kill")
@pytest.mark.row("S0.37")
def test_a_consumer_killed_with_a_full_prefetch_loses_nothing_and_keeps_order(world: World, tmp_path: Path) -> None:
    kill_consumers(world, tmp_path, kills=3, messages=600)


@pytest.mark.long
@needs("groups", "survives_kill")
def test_a_consumer_killed_25_times_loses_nothing_and_keeps_order(world: World, tmp_path: Path) -> None:
    kill_consumers(world, tmp_path, kills=25, messages=5_000)


# Closing


def test_close_during_receive_lets_it_return(world: World) -> None:
    subscriber = world.subscriber("billing")
    subscriber.receive(1, 0.5)
    results: list[Sequence[Delivery]] = []
    thread = threading.Thread(target=lambda: results.append(subscriber.receive(10, 20.0)))
    thread.start()
    time.sleep(0.2)  # Let it enter the call; a close before it is as good a case.
    started = time.monotonic()
    subscriber.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started < 15.0
    assert [list(batch) for batch in results] == [[]]
    subscriber.close()


def test_close_during_publish_gives_every_message_an_outcome_that_is_true(world: World) -> None:
    publisher = world.publisher(world.faulty)
    publish(publisher, [event(1, "warm")])
    world.apply("silence")
    batch = stream_of(5, 100)
    results: list[Sequence[Outcome]] = []
    thread = threading.Thread(target=lambda: results.append(publisher.publish(batch, 20.0)))
    thread.start()
    time.sleep(0.3)  # Let it enter the call; a close before it is as good a case.
    publisher.close()
    thread.join(10)
    world.apply("heal")
    assert not thread.is_alive()
    assert statuses(results[0]) == [Status.UNKNOWN] * len(batch)
    publisher.close()
    assert Status.CONFIRMED not in statuses(publisher.publish([event(2, "warm")], 1.0))


def test_two_publishers_close_at_once_and_what_they_confirmed_is_there(world: World) -> None:
    publishers = [world.publisher(), world.publisher()]
    batches = [[event(n, f"p{p}") for n in range(1, 101)] for p in range(2)]
    for publisher, batch in zip(publishers, batches, strict=True):
        publish(publisher, batch)
    threads = [threading.Thread(target=publisher.close) for publisher in publishers for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert not any(thread.is_alive() for thread in threads)
    in_order(receive(world.subscriber("billing"), 200), batches[0] + batches[1])


# Topology, lag, audit


def test_declaring_twice_changes_nothing(world: World) -> None:
    publish(world.publisher(), [event(1)])
    world.admin().declare()
    assert labels(receive(world.subscriber("billing"), 1)) == ["o-1#1"]


def test_a_topology_that_differs_from_what_exists_is_an_error_that_names_it(world: World) -> None:
    other = world.with_topology(replace(world.topology, partitions=world.topology.partitions + 2))
    with pytest.raises(TopologyMismatch) as caught:
        world.admin(other).declare()
    assert "partitions" in str(caught.value) or "lanes" in str(caught.value)
    assert "orders" in str(caught.value)


def test_a_ready_broker_is_ready(world: World) -> None:
    world.admin().check_ready(10.0)


@needs(partitions=1)
@pytest.mark.profiles("kafka")
@pytest.mark.row("S0.19")
def test_a_group_commits_the_position_it_reads_next_and_each_group_its_own(world: World) -> None:
    """Of six messages: after three it is 3, after one 1, and after all 6, where 5 would owe the last one again."""
    subscriptions = {**world.topology.subscriptions, "metrics": frozenset({"OrderCreated"})}
    wider = world.another(replace(world.topology, subscriptions=subscriptions))
    publish(world.publisher(), stream_of(1, 6))
    done = {"billing": 3, "shipping": 1, "metrics": 6}
    for group, acked in done.items():
        subscriber = world.subscriber(group, of=wider)
        subscriber.ack(receive(subscriber, 6, ack=False)[:acked])
        subscriber.close()
    assert {group: committed_kafka(world, group) for group in done} == {"billing": [3], "shipping": [1], "metrics": [6]}


@needs("groups")
@pytest.mark.row("S0.19")
def test_lag_counts_what_a_group_has_not_acked(world: World) -> None:
    admin = world.admin()
    publish(world.publisher(), stream_of(3, 10))
    subscriber = world.subscriber("billing")
    found = receive(subscriber, 30, ack=False)
    subscriber.ack(found[:12])
    # Acks reach the broker, and its counters us, a moment later.
    until(lambda: admin.lag("billing")["orders"].lag_messages, 18)
    assert admin.lag("shipping")["orders"].lag_messages == 30
    subscriber.ack(found[12:])
    until(lambda: admin.lag("billing")["orders"].lag_messages, 0)


def until(read: Callable[[], object], wanted: object) -> None:
    deadline = time.monotonic() + WITHIN_S
    while (found := read()) != wanted:
        assert time.monotonic() < deadline, f"it stayed {found}, wanted {wanted}"
        time.sleep(0.1)


@needs("delay", "groups")
def test_delay_is_the_age_of_the_oldest_unacked_message(world: World) -> None:
    admin = world.admin()
    assert admin.lag("billing")["orders"].delay_s == 0.0
    before = time.time()
    publish(world.publisher(), [event(1)])
    subscriber = world.subscriber("billing")
    found = receive(subscriber, 1, ack=False)
    until(lambda: (admin.lag("billing")["orders"].delay_s or 0.0) > 0.3, True)
    assert (admin.lag("billing")["orders"].delay_s or 0.0) <= time.time() - before + 0.5
    subscriber.ack(found)
    until(lambda: admin.lag("billing")["orders"].delay_s, 0.0)


@needs("retains_after_ack")
def test_the_audit_reader_sees_all_that_was_acked_in_order(world: World) -> None:
    batch = stream_of(4, 25)
    publish(world.publisher(), batch)
    receive(world.subscriber("billing"), len(batch))
    read = list(world.admin().read_all("orders"))
    in_order(read, batch)
    assert len(read) == len(batch)
    for lane in {delivery.lane for delivery in read}:
        positions = [delivery.position for delivery in read if delivery.lane == lane]
        assert None not in positions
        assert positions == sorted(set(positions), key=lambda position: position or 0)


@needs("retains_after_ack")
def test_the_audit_reader_starts_at_an_instant(world: World) -> None:
    publisher = world.publisher()
    publish(publisher, [event(1)])
    time.sleep(0.05)  # Not a wait for something to happen: the two halves need instants that differ.
    between = datetime.now(UTC)
    time.sleep(0.05)
    publish(publisher, [event(2)])
    assert labels(world.admin().read_all("orders", between)) == ["o-1#2"]


# Capabilities, CloudEvents, secrets


def test_capabilities_tell_the_truth(world: World) -> None:
    """What is promised is proven by the behaviours that need it; here: what is not promised is really not there."""
    can, admin = world.broker.capabilities, world.admin()
    assert can.profile == world.profile
    publish(world.publisher(), [event(1), event(2, type="OrderPaid")])
    subscriber = world.subscriber("shipping")
    (delivery,) = receive(subscriber, 1)
    assert (delivery.redelivered is not None) == can.marks_redelivery
    subscriber.close()
    if not can.replay:
        with pytest.raises(NotCapable):
            admin.replay("shipping")
    if not can.retains_after_ack:
        with pytest.raises(NotCapable):
            list(admin.read_all("orders"))
    if can.groups:
        assert (admin.lag("billing")["orders"].delay_s is not None) == can.delay, "billing owes two messages"
    if not can.refuses_unroutable:
        lonely = world.another(replace(world.topology, extra_topics=frozenset({"lonely"})))
        outcome = world.publisher(lonely).publish([event(1, topic="lonely", type="OrderCreated")], 5.0)[0]
        assert outcome.status in (Status.CONFIRMED, Status.REFUSED)
    if not can.hands_over_unknown_types:
        assert not world.put_foreign(world, event(3, type="OrderReturned")), "it comes back to who asks to be told"
        assert comes_nothing(world.dead_letters())
        assert "OrderReturned" not in {envelope.type for envelope in log_of(world)}


@needs("wire")
@pytest.mark.row("S2.5", "S3.1", "S3.5", "S3.7")
@pytest.mark.parametrize("sequence", [7, None])
def test_the_official_library_reads_our_events_from_the_wire(world: World, sequence: int | None) -> None:
    from cloudevents.core.bindings.amqp import AMQPMessage
    from cloudevents.core.bindings.amqp import from_binary as from_amqp
    from cloudevents.core.bindings.kafka import KafkaMessage
    from cloudevents.core.bindings.kafka import from_binary as from_kafka
    from cloudevents.core.formats.json import JSONFormat

    read = world.tap(world)
    sent = Traffic(seed=1).order(7)[0]._replace(topic="orders", sequence=sequence, occurred_at=AT, causation_id="e-8")
    publish(world.publisher(), [sent])
    (message,) = read(1)
    lane = lane_of(sent.key, world.topology.partitions)
    if PROFILES[world.profile][0] == "kafka":
        found = from_kafka(KafkaMessage(dict(message.headers), message.key, message.body), JSONFormat())
        assert (message.place, message.key) == (f"{world.topology.prefix}orders/{lane}", sent.key.encode())
    else:
        properties = {"content-type": message.content_type} if message.content_type else {}
        found = from_amqp(AMQPMessage(properties, dict(message.headers), message.body), JSONFormat())
        assert message.place == f"{world.topology.prefix}orders/order.created.{lane}"
    assert str(UUID(found.get_id())) == sent.id
    assert found.get_source() == "/shop/Order"
    assert found.get_type() == "OrderCreated"
    assert found.get_subject() == sent.key
    assert found.get_time() == AT
    assert found.get_time().utcoffset() == timedelta(0)
    assert found.get_specversion() == "1.0"
    assert found.get_datacontenttype() == "application/json"
    assert found.get_dataschema()
    assert found.get_extension("sequence") == (None if sequence is None else str(sequence))
    assert found.get_extension("correlationid") == sent.correlation_id
    assert found.get_extension("causationid") == "e-8"
    assert message.body == sent.data, "an object, not a text that holds one"
    assert (found.get_data()["orderId"], found.get_data()["customerId"]) == (sent.key, "c-7")
    assert found.get_data()["totalAmount"] > 0


def test_a_broker_that_does_not_answer_is_named_without_its_password(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    if world.profile == "memory":
        world.server.stop()
        broker = world.broker
    else:
        urls = {"kafka": "127.0.0.1:1", "rabbitmq": "amqp://someone:s3cr3t-w0rd@127.0.0.1:1/"}
        assert config_of(world.profile, {"url": urls[PROFILES[world.profile][0]]})
        from tests.contract.profiles import connect

        broker = connect(world.profile, {"url": urls[PROFILES[world.profile][0]]}, world.topology)
    caplog.set_level("DEBUG")
    with pytest.raises(BrokerUnavailable) as caught:
        world.admin(broker).check_ready(1.0)
    texts = [str(caught.value), repr(caught.value.__cause__), repr(broker), caplog.text]
    assert isinstance(caught.value, BrokerError)
    assert statuses(world.publisher(broker).publish([event(1)], 1.0)) == [Status.UNKNOWN]
    assert not any("s3cr3t-w0rd" in text for text in texts)
    world.apply("heal")
