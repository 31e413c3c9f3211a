"""What a publisher says when there is no broker at all: UNKNOWN, in time, for every message."""

from datetime import UTC, datetime
from time import monotonic

from brokers.kafka import KafkaConfig, connect
from core.messaging.envelope import Envelope
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
    assert monotonic() - started < 3.0
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
