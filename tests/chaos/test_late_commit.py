"""An offset commit that librdkafka sends again may land after a later one, and the broker then goes back to it.

Seen after an outage: all was acked, and the group's lag stayed at two. Nothing is lost by it, but a restart would take
those messages again, and whoever looks at the lag waits for ever.
"""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from confluent_kafka import TopicPartition

from brokers.kafka import KafkaConfig, connect
from brokers.kafka.subscriber import KafkaSubscriber
from brokers.kafka.topology import broker_topic
from core.messaging.envelope import Envelope
from core.messaging.ports import Admin
from servers.lifecycle import Server
from tests.contract.profiles import TOPOLOGY, own
from tests.waiting import until

MESSAGES = 20


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_commit_that_lands_after_a_later_one_is_overtaken_again(kafka_server: Server, protocol: str) -> None:
    broker = connect(KafkaConfig(kafka_server.url, group_protocol=protocol), own(TOPOLOGY))
    admin, publisher, subscriber = broker.admin(), broker.publisher(), broker.subscriber("shipping")
    assert isinstance(subscriber, KafkaSubscriber)
    try:
        admin.declare()
        now = datetime.now(UTC)
        events = [
            Envelope(str(uuid4()), "orders", "OrderCreated", "/shop/order", "one key", number, now, b"{}")
            for number in range(1, MESSAGES + 1)
        ]
        assert all(outcome.is_confirmed for outcome in publisher.publish(events, 20))
        lane, position = acked(subscriber)

        def receives_nothing_until_the_lag_is(messages: int) -> None:
            until(lambda: not subscriber.receive(10, 0.1) and lag(admin) == messages, 30)

        receives_nothing_until_the_lag_is(0)
        client = subscriber._joined()
        # As the client would send its own older one again; what it does with the answer is what counts here.
        older = [TopicPartition(broker_topic(broker.topology, "orders"), lane, position - 2)]
        client.commit(offsets=older, asynchronous=False)
        assert lag(admin) == 2, "the broker goes back"
        client.commit(offsets=older, asynchronous=True)
        receives_nothing_until_the_lag_is(0)
    finally:
        subscriber.close()
        publisher.close()
        admin.delete()
        admin.close()


def acked(subscriber: KafkaSubscriber) -> tuple[int, int]:
    """All of them, in two commits: their lane, and the position after them."""
    seen: list[int] = []
    lane = 0

    def some_more() -> bool:
        nonlocal lane
        deliveries = subscriber.receive(MESSAGES // 2, 0.2)
        subscriber.ack(deliveries)
        for delivery in deliveries:
            lane = delivery.lane
            seen.append(delivery.token[1])  # type: ignore[index]
        return len(seen) == MESSAGES

    until(some_more, 60)
    return lane, max(seen) + 1


def lag(admin: Admin) -> int:
    return sum(lag.lag_messages for lag in admin.lag("shipping").values())
