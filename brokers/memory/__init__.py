"""An honest in-process twin of the port: seeded, breakable on demand, and it says what it does not promise."""

from brokers.memory.broker import MemoryBroker, connect
from brokers.memory.config import MemoryConfig
from brokers.memory.store import Faults, Store

__all__ = ["Faults", "MemoryBroker", "MemoryConfig", "Store", "connect"]
