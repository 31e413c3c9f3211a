"""What a SIGKILL of the broker takes of ten thousand stored messages, tier by tier."""

import time
from dataclasses import replace
from uuid import uuid4

import pytest

from brokers import kafka, rabbitmq
from brokers.kafka.config import KafkaConfig
from brokers.rabbitmq.config import RabbitConfig
from core.messaging.ports import Broker
from core.messaging.topology import Route, Topology
from servers.lifecycle import Server
from tests.system.live_shop import likes_of
from tests.waiting import delete_all

STORED = 10_000
FORGETTING = "fire-and-forget"
TIERS: dict[str, dict[str, KafkaConfig | RabbitConfig]] = {
    "kafka": {
        FORGETTING: KafkaConfig("127.0.0.1:1", durability="fire-and-forget"),
        "confirmed": KafkaConfig("127.0.0.1:1"),
        "fsynced": KafkaConfig("127.0.0.1:1", durability="fsynced"),
    },
    "rabbitmq": {
        FORGETTING: RabbitConfig("amqp://x", durability="fire-and-forget", queue_type="classic"),
        "confirmed, classic": RabbitConfig("amqp://x", queue_type="classic"),
        "confirmed": RabbitConfig("amqp://x"),
        "fsynced": RabbitConfig("amqp://x", durability="fsynced"),
    },
}


@pytest.mark.long
@pytest.mark.row("S2.29")
def test_of_ten_thousand_stored_messages_a_sigkill_takes_none_that_was_confirmed(broker_server: Server) -> None:
    tiers = {tier: _connected(broker_server, config) for tier, config in TIERS[broker_server.name].items()}
    confirmed: dict[str, set[str]] = {}
    for tier, broker in tiers.items():
        broker.admin().declare()
        publisher = broker.publisher()
        batch = [
            envelope._replace(topic="kept", type="Kept", key=f"k-{number % 2_000}")
            for number, envelope in enumerate(likes_of(STORED))
        ]
        outcomes = publisher.publish(batch, 60.0)
        confirmed[tier] = {one.id for one, outcome in zip(batch, outcomes, strict=True) if outcome.is_confirmed}
        publisher.close()
    broker_server.kill()
    broker_server.start()
    survivors: dict[str, set[str]] = {}
    for tier, broker in tiers.items():
        survivors[tier] = _read_to_the_end(broker, 0 if tier == FORGETTING else len(confirmed[tier]))
        delete_all(broker.admin())
    counts = {tier: len(found) for tier, found in survivors.items()}
    for tier in tiers.keys() - {FORGETTING}:
        assert (len(confirmed[tier]), counts[tier]) == (STORED, STORED), counts
        assert survivors[tier] == confirmed[tier]
    # Kafka has them in the system's memory, which outlives its process; RabbitMQ forgets what is not persistent.
    assert (counts[FORGETTING] > 0) == (broker_server.name == "kafka"), counts


def _connected(server: Server, config: KafkaConfig | RabbitConfig) -> Broker:
    routes, subscriptions = {"Kept": Route("kept", "kept")}, {"reader": frozenset({"Kept"})}
    topology = Topology(routes, subscriptions, audit=False, prefix=f"u{uuid4().hex[:8]}.")
    if isinstance(config, KafkaConfig):
        return kafka.connect(replace(config, bootstrap_servers=server.url), topology)
    return rabbitmq.connect(replace(config, url=server.url), topology)


def _read_to_the_end(broker: Broker, wanted: int) -> set[str]:
    """Ids of the messages, until there are `wanted`; where nobody knows how many, until none came for three seconds."""
    subscriber, found = broker.subscriber("reader"), set[str]()
    now = time.monotonic()
    give_up_at = now + (60.0 if wanted else 3.0)
    while time.monotonic() < give_up_at and (not wanted or len(found) < wanted):
        batch = subscriber.receive(5_000, 0.3)
        subscriber.ack(batch)
        found |= {delivery.envelope.id for delivery in batch if delivery.envelope}
        if batch and not wanted:
            give_up_at = time.monotonic() + 3.0
    subscriber.close()
    return found
