"""The memory twin behind the port: for tests and for a first look without any service."""

from brokers.memory.admin import MemoryAdmin
from brokers.memory.capabilities import MEMORY
from brokers.memory.config import MemoryConfig
from brokers.memory.publisher import MemoryPublisher
from brokers.memory.subscriber import MemorySubscriber
from core.messaging.capabilities import Capabilities
from core.messaging.topology import Topology


class MemoryBroker:
    def __init__(self, config: MemoryConfig, topology: Topology) -> None:
        self.config = config
        self._topology = topology

    @property
    def topology(self) -> Topology:
        return self._topology

    @property
    def capabilities(self) -> Capabilities:
        return MEMORY

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self.config, self._topology)

    def subscriber(self, group: str, prefetch_messages: int = 2_000) -> MemorySubscriber:
        return MemorySubscriber(self.config.store, self._topology, group, prefetch_messages)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self.config.store, self._topology)


def connect(config: MemoryConfig, topology: Topology) -> MemoryBroker:
    """Nothing is reached before the first call; `config.store` is the server and holds the faults to set."""
    return MemoryBroker(config, topology)
