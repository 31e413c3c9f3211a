"""Kafka filters no types: what the routing table leaves to others is passed over here, and nothing else is."""

from datetime import UTC, datetime

import pytest
from confluent_kafka import Message, TopicPartition

from brokers.kafka import KafkaConfig, connect
from brokers.kafka.codec import encode
from brokers.kafka.subscriber import KafkaSubscriber
from core.messaging.envelope import Envelope
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology

TOPOLOGY = Topology(
    {"OrderCreated": Route("orders", "order.created"), "OrderPaid": Route("orders", "order.paid")},
    {"billing": frozenset({"OrderCreated"}), "shipping": frozenset({"OrderCreated", "OrderPaid"})},
)
JUNK = Message(topic="orders", partition=0, offset=3, key=b"k", value=b"junk", headers=[("x-odd", b"\xff")])


def message(offset: int, type: str) -> Message:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(f"id-{offset}", "orders", type, "/shop/Order", "k", offset, at, b"{}")
    headers = [(name, value if isinstance(value, bytes) else str(value).encode()) for name, value in encode(envelope)]
    return Message(topic="orders", partition=0, offset=offset, key=b"k", value=b"{}", headers=headers)


def reader(group: str) -> KafkaSubscriber:
    subscriber = connect(KafkaConfig("127.0.0.1:1"), TOPOLOGY).subscriber(group)
    subscriber._assigned(None, [TopicPartition("orders", 0)])  # type: ignore[arg-type]  # nobody looks at the client
    return subscriber


@pytest.mark.parametrize("beside", [[], [JUNK]], ids=["alone", "beside a malformed one"])
def test_a_type_that_no_route_knows_is_handed_over_and_one_of_others_is_passed_over(beside: list[Message]) -> None:
    came = [message(0, "OrderCreated"), message(1, "OrderPaid"), message(2, "OrderReturned"), *beside]
    for group, wanted in (
        ("billing", ["OrderCreated", "OrderReturned"]),
        ("shipping", ["OrderCreated", "OrderPaid", "OrderReturned"]),
    ):
        subscriber = reader(group)
        found = subscriber._decoded(came)
        assert [delivery.envelope.type for delivery in found if delivery.envelope] == wanted
        assert len(found) == len(wanted) + len(beside)
        assert subscriber.passed_over_messages == len(came) - len(found)


def test_only_known_types_are_left_to_others_and_letters_all_belong_to_the_dead_letter_service() -> None:
    assert TOPOLOGY.left_to_others("billing") == {"OrderPaid"}
    assert TOPOLOGY.left_to_others("shipping") == frozenset()
    assert TOPOLOGY.left_to_others(DEAD_LETTER_GROUP) == frozenset()
