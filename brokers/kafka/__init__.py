"""The Kafka adapter: `connect` gives a Broker; nothing connects before the first call that needs the broker."""

from brokers.kafka.broker import KafkaBroker
from brokers.kafka.config import KafkaConfig
from core.messaging.ports import Broker
from core.messaging.topology import Topology


def connect(config: KafkaConfig, topology: Topology) -> Broker:
    return KafkaBroker(config, topology)


__all__ = ["KafkaConfig", "connect"]
