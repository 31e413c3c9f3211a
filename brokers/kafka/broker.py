"""Everything of one broker behind the port's one name."""

from dataclasses import dataclass

from brokers.kafka.admin import KafkaAdmin
from brokers.kafka.capabilities import capabilities_of
from brokers.kafka.config import KafkaConfig
from brokers.kafka.publisher import KafkaPublisher
from brokers.kafka.subscriber import KafkaSubscriber
from core.messaging.capabilities import Capabilities
from core.messaging.topology import Topology


@dataclass(frozen=True)
class KafkaBroker:
    config: KafkaConfig
    topology: Topology

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self.config)

    def publisher(self) -> KafkaPublisher:
        return KafkaPublisher(self.config, self.topology)

    def subscriber(self, group: str, prefetch_messages: int = 2_000) -> KafkaSubscriber:
        return KafkaSubscriber(self.config, self.topology, group, prefetch_messages)

    def admin(self) -> KafkaAdmin:
        return KafkaAdmin(self.config, self.topology)
