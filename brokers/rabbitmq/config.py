"""Every setting of the RabbitMQ adapter, checked once. Not here: where the values come from (`testbed.settings`)."""

from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

QueueType = Literal["quorum", "classic", "stream"]
Client = Literal["pika", "aio-pika"]
Durability = Literal["confirmed", "fsynced", "fire-and-forget"]


@dataclass(frozen=True)
class RabbitConfig:
    """Neither URL is in `repr`: they hold the password."""

    url: str = field(repr=False)
    management_url: str | None = field(default=None, repr=False)
    """http://user:password@host:port; only `Admin.lag` uses it, for messages that other processes hold unacked."""
    queue_type: QueueType = "quorum"
    client: Client = "pika"
    durability: Durability = "confirmed"
    publish_window_messages: int = 2_000
    """How many messages may be unconfirmed at once."""
    message_max_bytes: int = 1_048_576
    """Larger bodies are refused here, before the broker closes the channel over them (its own limit: 16 MiB)."""
    heartbeat_s: int = 10
    delivery_limit: int = 1_000_000
    """Quorum queues drop or dead-letter a message after so many returns; 4.0's default of 20 loses what crashes."""

    def __post_init__(self) -> None:
        _one_of("RABBITMQ_QUEUE_TYPE", self.queue_type, get_args(QueueType))
        _one_of("RABBITMQ_CLIENT", self.client, get_args(Client))
        _one_of("DURABILITY", self.durability, get_args(Durability))
        if self.durability == "fsynced" and self.queue_type != "quorum":
            raise ValueError(
                f"DURABILITY=fsynced needs RABBITMQ_QUEUE_TYPE=quorum: a {self.queue_type} queue confirms before it "
                "has written to disk. Use quorum, or DURABILITY=confirmed."
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
            raise ValueError("RABBITMQ_URL (value hidden) is not an address; use amqp://user:password@host:port/vhost")
        if self.management_url is not None and not urlsplit(self.management_url).scheme.startswith("http"):
            raise ValueError(
                "RABBITMQ_MANAGEMENT_URL (value hidden) is not an address; use http://user:password@host:port"
            )
        for name in ("publish_window_messages", "message_max_bytes", "heartbeat_s", "delivery_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; use 1 or more")

    @property
    def address(self) -> str:
        """Host, port and virtual host: what may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}{parts.path or '/'}"

    @property
    def vhost(self) -> str:
        return unquote(urlsplit(self.url).path[1:]) or "/"

    @property
    def confirms(self) -> bool:
        return self.durability != "fire-and-forget"

    @property
    def one_per_key(self) -> bool:
        """Classic queues can nack in normal operation: a key then never has two messages on the way."""
        return self.queue_type == "classic"

    @property
    def profile(self) -> str:
        tier = "" if self.durability == "confirmed" else f"-{self.durability}"
        return f"rabbitmq-{self.queue_type}-{self.client}{tier}"


def _one_of(setting: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{setting}={value} is not allowed; use one of {', '.join(allowed)}")
