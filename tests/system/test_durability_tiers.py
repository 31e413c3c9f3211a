"""What a SIGKILL of the broker takes of what it has stored, tier by tier: of ten thousand messages in the long run."""

import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import pytest

from brokers import kafka, rabbitmq
from brokers.kafka.config import KafkaConfig
from brokers.rabbitmq.config import RabbitConfig
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.ports import Broker
from core.messaging.topology import Route, Topology
from servers.lifecycle import Server
from tests.system.live_shop import likes_of
from tests.waiting import delete_all, until

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


@pytest.mark.row("S2.29")
def test_of_a_thousand_stored_messages_a_sigkill_takes_none_that_was_confirmed(broker_server: Server) -> None:
    _sigkill_takes_only_what_was_not_confirmed(broker_server, 1_000)


@pytest.mark.long
@pytest.mark.row("S2.29")
def test_of_ten_thousand_stored_messages_a_sigkill_takes_none_that_was_confirmed(broker_server: Server) -> None:
    _sigkill_takes_only_what_was_not_confirmed(broker_server, 10_000)


def _sigkill_takes_only_what_was_not_confirmed(broker_server: Server, stored: int) -> None:
    tiers = {
        tier: _connected(broker_server, config, f"u{uuid4().hex[:8]}.")
        for tier, config in TIERS[broker_server.name].items()
    }
    confirmed: dict[str, set[str]] = {}
    for tier, broker in tiers.items():
        broker.admin().declare()
        batch = [
            envelope._replace(topic="kept", type="Kept", key=f"k-{number % (stored // 5)}")
            for number, envelope in enumerate(likes_of(stored))
        ]
        confirmed[tier] = _published(broker, batch)
    broker_server.kill()
    broker_server.start()
    survivors: dict[str, set[str]] = {}
    for tier, broker in tiers.items():
        survivors[tier] = _read_to_the_end(broker_server, broker, TIERS[broker_server.name][tier])
        delete_all(broker.admin())
    counts = {tier: len(found) for tier, found in survivors.items()}
    for tier in tiers.keys() - {FORGETTING}:
        assert (len(confirmed[tier]), counts[tier]) == (stored, stored), counts
        assert survivors[tier] == confirmed[tier]
    # Kafka has them in the system's memory, which outlives its process; RabbitMQ forgets what is not persistent.
    assert (counts[FORGETTING] > 0) == (broker_server.name == "kafka"), counts


def _connected(server: Server, config: KafkaConfig | RabbitConfig, prefix: str) -> Broker:
    routes, subscriptions = {"Kept": Route("kept", "kept")}, {"reader": frozenset({"Kept"})}
    topology = Topology(routes, subscriptions, audit=False, prefix=prefix)
    if isinstance(config, KafkaConfig):
        return kafka.connect(replace(config, bootstrap_servers=server.url), topology)
    return rabbitmq.connect(replace(config, url=server.url), topology)


def _published(broker: Broker, batch: Sequence[Envelope]) -> set[str]:
    """Ids of what was confirmed."""
    publisher = broker.publisher()
    outcomes = publisher.publish(batch, 60.0)
    publisher.close()
    return {one.id for one, outcome in zip(batch, outcomes, strict=True) if outcome.is_confirmed}


def _read_to_the_end(server: Server, broker: Broker, config: KafkaConfig | RabbitConfig) -> set[str]:
    """Ids of what is stored: all that stands before one last confirmed message a lane."""
    lanes = broker.topology.partitions
    keys = {lane_of(key, lanes): key for key in map(str, range(50))}
    last = [
        one._replace(topic="kept", type="Kept", key=key)
        for one, key in zip(likes_of(lanes), keys.values(), strict=True)
    ]
    confirming = _connected(server, replace(config, durability="confirmed"), broker.topology.prefix)
    ids = {one.id for one in last}
    until(lambda: _published(confirming, last) == ids)
    subscriber, found = broker.subscriber("reader"), set[str]()
    give_up_at = time.monotonic() + 60.0
    while not ids <= found:
        assert time.monotonic() < give_up_at, f"{len(found)} came, and not the last of each lane"
        batch = subscriber.receive(5_000, 0.3)
        subscriber.ack(batch)
        found |= {delivery.envelope.id for delivery in batch if delivery.envelope}
    subscriber.close()
    return found - ids
