"""What `connect` returns: the parts of one topology on one RabbitMQ, made on demand."""

from dataclasses import dataclass, field
from weakref import WeakSet

from brokers.rabbitmq.admin import RabbitAdmin
from brokers.rabbitmq.capabilities import capabilities_of
from brokers.rabbitmq.clients import check_client
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.positions import Positions
from brokers.rabbitmq.publisher import RabbitPublisher
from brokers.rabbitmq.subscriber import RabbitSubscriber
from core.messaging.capabilities import Capabilities
from core.messaging.topology import Topology


@dataclass(frozen=True)
class RabbitBroker:
    config: RabbitConfig
    topology: Topology
    _positions: Positions = field(default_factory=Positions)
    _members: "WeakSet[RabbitSubscriber]" = field(default_factory=WeakSet)

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self.config, self.topology)

    def publisher(self) -> RabbitPublisher:
        return RabbitPublisher(self.config, self.topology, self._redeclare)

    def subscriber(self, group: str, prefetch_messages: int = 2_000) -> RabbitSubscriber:
        member = RabbitSubscriber(
            self.config, self.topology, group, prefetch_messages, self._positions, self._redeclare
        )
        self._members.add(member)
        return member

    def admin(self) -> RabbitAdmin:
        return RabbitAdmin(
            self.config,
            self.topology,
            self._positions,
            lambda group: [member for member in self._members if member.group == group],
        )

    def _redeclare(self) -> None:
        """The broker lost the topology (a queue or exchange is not there): put it back."""
        self.admin().restore()


def connect(config: RabbitConfig, topology: Topology) -> RabbitBroker:
    """Connects to nothing yet: the first call that needs the broker does. Raises BrokerError for a client library
    that lacks what the adapter takes from it."""
    check_client(config)
    return RabbitBroker(config, topology)
