"""What only a real RabbitMQ shows: declarations that differ, queues that vanish, a consumer that stops."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pika
import pytest

from benchmarks.parts import adapter
from brokers.rabbitmq import RabbitBroker, RabbitConfig, connect
from core.messaging.errors import TopologyMismatch
from core.messaging.topology import Route, Topology
from servers.lifecycle import Server
from tests.waiting import until

WITHIN_S = 30.0
PREFETCH = 300


@pytest.fixture
def topology() -> Topology:
    return replace(
        Topology({"OrderCreated": Route("orders", "order.created")}, {"billing": frozenset({"OrderCreated"})}),
        prefix=f"u{uuid4().hex[:8]}.",
    )


@pytest.fixture
def declared(rabbitmq_server: Server, topology: Topology) -> Iterator[RabbitBroker]:
    broker = connect(RabbitConfig(rabbitmq_server.url), topology)
    broker.admin().declare()
    yield broker
    broker.admin().delete()


@pytest.mark.parametrize(
    ("argument", "settings", "shape"),
    [
        ("x-delivery-limit", {"delivery_limit": 5}, {}),
        ("x-queue-type", {"queue_type": "classic"}, {}),
        ("x-queue-type", {"queue_type": "stream"}, {}),
        ("partitions", {}, {"partitions": 2}),
        ("partitions", {}, {"partitions": 5}),
        ("audit", {}, {"audit": False}),
    ],
)
def test_a_declaration_that_differs_names_its_argument(
    declared: RabbitBroker, argument: str, settings: dict[str, Any], shape: dict[str, Any]
) -> None:
    other = connect(replace(declared.config, **settings), replace(declared.topology, **shape))
    with pytest.raises(TopologyMismatch, match=f" with {argument}="):
        other.admin().declare()


@pytest.mark.parametrize("client", ["pika", "aio-pika"])
def test_queues_deleted_under_a_consumer_are_put_back_and_read_again(declared: RabbitBroker, client: Any) -> None:
    broker = connect(replace(declared.config, client=client), declared.topology)
    publisher, subscriber = broker.publisher(), broker.subscriber("billing")
    try:
        first, second = events(2)
        assert publisher.publish([first], WITHIN_S)[0].is_confirmed
        subscriber.ack(until(lambda: subscriber.receive(10, 0.5)))
        with pika.BlockingConnection(pika.URLParameters(declared.config.url)) as connection:
            for lane in range(declared.topology.partitions):
                connection.channel().queue_delete(f"billing.{declared.topology.prefix}orders.{lane}")

        def arrived() -> bool:
            # Until the consumer has put the queues back, only the audit stream takes it.
            assert publisher.publish([second], WITHIN_S)[0].is_confirmed
            return any(d.envelope and d.envelope.id == second.id for d in subscriber.receive(10, 0.5))

        until(arrived)
    finally:
        subscriber.close()
        publisher.close()


@pytest.mark.parametrize("client", ["pika", "aio-pika"])
def test_a_consumer_that_stops_holds_its_prefetch_and_no_more(rabbitmq_server: Server, client: Any) -> None:
    topology = replace(adapter.TOPOLOGY, prefix=f"u{uuid4().hex[:8]}.")
    broker = connect(RabbitConfig(rabbitmq_server.url, client=client), topology)
    admin = broker.admin()
    admin.declare()
    publisher, subscriber = broker.publisher(), broker.subscriber(adapter.OURS, PREFETCH)
    try:
        count = 10 * PREFETCH
        batch = adapter.envelopes([f"k-{number}" for number in range(count)], [b'"x"'] * count)
        assert all(outcome.is_confirmed for outcome in publisher.publish(batch, WITHIN_S))
        until(lambda: subscriber.receive(1, 0.5))
        until(lambda: subscriber.unacked().total() == PREFETCH)
        until(lambda: admin.lag(adapter.OURS)[adapter.OURS].lag_messages == count)
        assert subscriber.unacked().total() == PREFETCH
    finally:
        subscriber.close()
        publisher.close()
        admin.delete()


class Milliseconds(datetime):
    """Written where AMQP wants seconds: a timestamp of the year 58,000."""

    def utctimetuple(self) -> Any:
        return (1970, 1, 1, 0, 0, 1_790_000_000_000)


STRANGE: dict[str, dict[str, object]] = {
    "no event, in milliseconds": {"x-at": Milliseconds(2026, 1, 1)},
    "its time of publishing is a text": {"timestamp_in_ms": "yesterday"},
    "its time of publishing is no time": {"timestamp_in_ms": Milliseconds(2026, 1, 1)},
}


def test_headers_that_no_client_can_read_end_neither_the_audit_nor_the_count_of_what_is_owed(
    declared: RabbitBroker,
) -> None:
    publisher, admin = declared.publisher(), declared.admin()
    first, last = events(2)
    try:
        assert publisher.publish([first], WITHIN_S)[0].is_confirmed
        with pika.BlockingConnection(pika.URLParameters(declared.config.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for body, headers in STRANGE.items():
                properties = pika.BasicProperties(headers=headers, delivery_mode=2, timestamp=1_790_000_000_000)
                exchange = f"{declared.topology.prefix}orders"
                channel.basic_publish(exchange, "order.created.0", body.encode(), properties, mandatory=True)
        assert publisher.publish([last], WITHIN_S)[0].is_confirmed
        owed = admin.lag("billing")["orders"]
        assert owed.lag_messages == 2 + len(STRANGE)
        assert owed.delay_s is not None
        for since in (None, datetime(2026, 1, 1, tzinfo=UTC)):
            found = list(admin.read_all("orders", since))
            assert [d.envelope.id for d in found if d.envelope] == [first.id, last.id]
            assert {d.body.decode(): d.error for d in found if d.envelope is None} == dict.fromkeys(
                STRANGE, "header cloudEvents_specversion is not there"
            )
    finally:
        publisher.close()


def events(count: int) -> list[Any]:
    made = adapter.envelopes(["k"] * count, [b"{}"] * count)
    return [event._replace(topic="orders", type="OrderCreated", id=str(uuid4())) for event in made]
