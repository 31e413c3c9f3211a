"""What a memory broker is told: its store (the server), and the limits a real one would have."""

from dataclasses import dataclass, field

from brokers.memory.store import Store


@dataclass(frozen=True)
class MemoryConfig:
    store: Store = field(default_factory=Store)
    """Two brokers with the same store see each other, like two clients of one server."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Of data and headers; a larger message is REFUSED before it reaches the store."""
