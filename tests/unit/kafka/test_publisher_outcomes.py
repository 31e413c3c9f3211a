"""What a publisher says of each message without a broker, and whatever its client reports, raises or withholds."""

import gc
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Event
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from brokers.kafka import KafkaConfig, connect
from brokers.kafka.errors import Connection
from brokers.kafka.publisher import _Generation
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.outcomes import Status
from core.messaging.topology import Route, Topology

TOPOLOGY = Topology({"OrderCreated": Route("orders", "order.created")}, {"billing": frozenset({"OrderCreated"})})
NOWHERE = KafkaConfig("127.0.0.1:1")


def event(number: int) -> Envelope:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Envelope(f"id-{number}", "orders", "OrderCreated", "/shop/order", f"k{number}", 1, now, b"{}")


def test_without_a_broker_every_outcome_is_unknown_within_the_time_out() -> None:
    publisher = connect(NOWHERE, TOPOLOGY).publisher()
    started = monotonic()
    outcomes = publisher.publish([event(1), event(2)], timeout_s=0.5)
    assert monotonic() - started < 10.0
    assert [outcome.status for outcome in outcomes] == [Status.UNKNOWN, Status.UNKNOWN]
    publisher.close()


def test_a_closed_publisher_sends_nothing_and_says_so() -> None:
    publisher = connect(NOWHERE, TOPOLOGY).publisher()
    publisher.close()
    publisher.close()
    [outcome] = publisher.publish([event(1)], timeout_s=5.0)
    assert outcome.status is Status.UNKNOWN
    assert "closed" in outcome.reason


def test_an_empty_batch_has_no_outcomes() -> None:
    assert list(connect(NOWHERE, TOPOLOGY).publisher().publish([], timeout_s=0.1)) == []


class _Client:
    """Stands in for librdkafka's producer: takes everything, then does what a test says when it is asked to flush."""

    def __init__(self, on_flush: Callable[["_Client"], int]) -> None:
        self.taken: list[tuple[str, Callable[[Any, Any], None]]] = []
        self.lanes: list[int] = []
        self.on_flush = on_flush
        self.purged = False
        self.room_messages = 1_000

    def produce(self, topic: str, value: bytes, key: str, partition: int, report: Any, *, headers: Any) -> None:
        if len(value) > 100:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large"))
        if len(self.taken) >= self.room_messages:
            raise BufferError
        self.taken.append((key, report))
        self.lanes.append(partition)

    def flush(self, timeout_s: float) -> int:
        return self.on_flush(self)

    def purge(self) -> None:
        self.purged = True

    def __len__(self) -> int:
        return 0


def publish_with(
    client: _Client, batch: Sequence[Envelope], timeout_s: float = 5.0, begun_lanes: Sequence[int] = (0, 1, 2)
) -> list[Status]:
    """Through one generation whose topic is known and which sent to `begun_lanes` before, in place of a real client."""
    generation = _Generation(NOWHERE, 3, Connection("test", "nowhere", str))
    generation._producer = client
    generation._begun = {"orders": set(begun_lanes)}
    records = [("orders", envelope.data, envelope.key, ()) for envelope in batch]
    outcomes = generation.send(records, len(records), monotonic() + timeout_s, Event())
    assert generation.is_spent is client.purged
    return [outcome.status for outcome in outcomes]


def test_what_the_client_holds_no_more_and_did_not_report_is_confirmed() -> None:
    assert publish_with(_Client(lambda _: 0), [event(1), event(2)]) == [Status.CONFIRMED, Status.CONFIRMED]


def test_a_reported_failure_is_unknown_and_spends_the_producer() -> None:
    def fail_second(client: _Client) -> int:
        if not client.purged:
            client.taken[1][1](KafkaError(KafkaError._MSG_TIMED_OUT), None)
        return 0

    assert publish_with(_Client(fail_second), [event(1), event(2)]) == [Status.CONFIRMED, Status.UNKNOWN]


def test_what_is_still_held_at_the_time_out_is_purged_and_unknown() -> None:
    def hold_first(client: _Client) -> int:
        if client.purged:
            client.taken[0][1](KafkaError(KafkaError._PURGE_INFLIGHT), None)
            return 0
        return 1

    outcomes = publish_with(_Client(hold_first), [event(1), event(2)], timeout_s=0.05)
    assert outcomes == [Status.UNKNOWN, Status.CONFIRMED]


def test_the_first_message_of_a_lane_is_answered_before_the_next_one_there_is_handed_over() -> None:
    """Else the broker, which knows no sequence yet, may take the second although the first failed."""
    seen: list[list[str]] = []

    def look(client: _Client) -> int:
        seen.append([key for key, _ in client.taken])
        return 0

    batch = [event(number) for number in range(1, 9)]
    lanes = [lane_of(envelope.key, 3) for envelope in batch]
    firsts = [batch[lanes.index(lane)].key for lane in sorted(set(lanes), key=lanes.index)]
    rest = [envelope.key for envelope in batch if envelope.key not in firsts]
    assert publish_with(_Client(look), batch, begun_lanes=()) == [Status.CONFIRMED] * 8
    assert seen == [firsts, firsts + rest]


def test_a_lane_that_has_begun_is_not_waited_for_again() -> None:
    flushes = 0

    def count(_: _Client) -> int:
        nonlocal flushes
        flushes += 1
        return 0

    generation = _Generation(NOWHERE, 1, Connection("test", "nowhere", str))
    generation._producer = _Client(count)
    generation._begun = {"orders": set()}
    for number in range(1, 4):
        records = [("orders", b"{}", f"k{number}", ()), ("orders", b"{}", f"k{number}", ())][: 1 + number // 2]
        generation.send(records, len(records), monotonic() + 5.0, Event())
    assert flushes == 3


def test_what_waited_for_the_first_message_of_its_lane_is_unknown_where_that_one_failed() -> None:
    def fail_first(client: _Client) -> int:
        if not client.purged:
            client.taken[0][1](KafkaError(KafkaError._MSG_TIMED_OUT), None)
        return 0

    client, one_key = _Client(fail_first), [event(1), event(1), event(1)]
    assert publish_with(client, one_key, begun_lanes=()) == [Status.UNKNOWN] * 3
    assert len(client.taken) == 1


def test_behind_a_refused_first_message_another_key_begins_the_lane() -> None:
    too_large = event(1)._replace(data=b"x" * 101)
    others = [envelope for envelope in map(event, range(2, 30)) if lane_of(envelope.key, 3) == lane_of("k1", 3)][:2]
    client = _Client(lambda _: 0)
    outcomes = publish_with(client, [too_large, *others, event(1)], begun_lanes=())
    assert outcomes == [Status.REFUSED, Status.CONFIRMED, Status.CONFIRMED, Status.UNKNOWN]
    assert [key for key, _ in client.taken] == [envelope.key for envelope in others]


def test_when_a_fatal_error_swallows_reports_nothing_counts_as_confirmed() -> None:
    def raise_once(client: _Client) -> int:
        if not client.purged:
            raise KafkaException(KafkaError(KafkaError._GAPLESS_GUARANTEE))
        return 0

    assert publish_with(_Client(raise_once), [event(1), event(2)]) == [Status.UNKNOWN, Status.UNKNOWN]


def test_behind_a_refused_message_its_key_waits_and_other_keys_go_on() -> None:
    too_large = event(1)._replace(data=b"x" * 101)
    client = _Client(lambda _: 0)
    outcomes = publish_with(client, [too_large, event(1), event(2)])
    assert outcomes == [Status.REFUSED, Status.UNKNOWN, Status.CONFIRMED]
    assert [key for key, _ in client.taken] == ["k2"]


def test_each_message_is_given_to_the_lane_of_its_key() -> None:
    client = _Client(lambda _: 0)
    batch = [event(number) for number in range(1, 9)]
    publish_with(client, batch)
    assert client.lanes == [lane_of(envelope.key, 3) for envelope in batch]
    assert set(client.lanes) == {0, 1, 2}


def test_a_message_that_waits_for_room_goes_into_the_lane_of_its_key_too() -> None:
    def make_room(client: _Client) -> int:
        client.room_messages += 1
        return 0

    client = _Client(make_room)
    client.room_messages = 1
    batch = [event(number) for number in range(1, 9)]
    assert publish_with(client, batch) == [Status.CONFIRMED] * 8
    assert client.lanes == [lane_of(envelope.key, 3) for envelope in batch]


def test_an_answer_that_comes_while_purging_is_a_confirm_and_the_purged_producer_still_ends() -> None:
    # `publish_with` asserts that what was purged is spent: it would go on with a gap behind it.
    assert publish_with(_Client(lambda client: 0 if client.purged else 1), [event(1)], 0.05) == [Status.CONFIRMED]


def test_what_not_even_a_purge_takes_out_of_the_client_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brokers.kafka.publisher.PURGE_S", 0.05)
    assert publish_with(_Client(lambda _: 1), [event(1), event(2)], 0.05) == [Status.UNKNOWN, Status.UNKNOWN]


def test_a_spent_producer_is_destroyed_before_the_next_publish_and_not_by_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[_Client]] = []

    def producer(*_: Any, **__: Any) -> _Client:
        client = _Client(lambda client: client.taken[0][1](KafkaError(KafkaError._TRANSPORT), None) or 0)
        made.append(weakref.ref(client))
        return client

    monkeypatch.setattr("brokers.kafka.publisher.Producer", producer)
    monkeypatch.setattr(_Generation, "_look_up", lambda self, topic, *_: self._begun.update({topic: {0, 1, 2}}))
    publisher = connect(NOWHERE, TOPOLOGY).publisher()
    gc.disable()
    try:
        assert [outcome.status for outcome in publisher.publish([event(1)], 1.0)] == [Status.UNKNOWN]
        assert made[0]() is None
    finally:
        gc.enable()
    publisher.publish([event(1)], 1.0)
    assert len(made) == 2
