"""One connection with one channel, whatever the client: what publisher and subscriber need of it, and no more.

A link lives once: when it is lost, a new one is made. Its owner calls it from one thread; the listener's methods run
in the link's own I/O thread, which also answers heartbeats while a handler works.
"""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import NamedTuple, Protocol

from brokers.rabbitmq.codec import Outgoing
from brokers.rabbitmq.errors import Loss


class Arrival(NamedTuple):
    """One basic.deliver. `properties`: AMQP bytes not yet read (pika), or the headers as a dict (aio-pika)."""

    consumer: str
    tag: int
    redelivered: bool | None
    """None: read from a stream, which marks nothing."""
    routing_key: str
    properties: object
    body: bytes


class Listener(Protocol):
    def settled(self, tag: int, multiple: bool, is_ack: bool) -> None:
        """The broker's answer to publish number `tag` (from 1), or to all up to it."""

    def returned(self, message_id: str, routing_key: str, reason: str) -> None:
        """No queue took it; told before its `settled`."""

    def delivered(self, arrivals: Sequence[Arrival]) -> None: ...

    def lost(self, loss: Loss) -> None:
        """The link is over; told once, and never for a link that was closed or aborted by its owner."""

    def told(self) -> None:
        """All that one read from the socket held was told: the moment to wake whoever waits."""


class Link(Protocol):
    """Methods with `timeout_s` raise LinkLost."""

    def open(self, confirms: bool, timeout_s: float) -> None: ...

    def lock(self, name: str, timeout_s: float) -> bool:
        """Hold the exclusive queue `name` until this connection ends; False: another connection holds it."""

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Number the messages on from the last and send them, mandatory, in this order."""

    def unsent_bytes(self) -> int:
        """What has not yet been handed to the operating system."""

    def is_blocked(self) -> bool:
        """The broker said that it takes nothing now (memory or disk alarm)."""

    def consume(self, queue: str, prefetch_messages: int, arguments: Mapping[str, object], timeout_s: float) -> str:
        """Returns the consumer tag that arrivals carry."""

    def ack(self, tags: Sequence[tuple[int, bool]]) -> None:
        """(tag, whether all before it too), sent in this order."""

    def close(self, timeout_s: float) -> None:
        """Send what is waiting, then close in order."""

    def abort(self) -> None:
        """Close the socket now; drop what is not yet sent."""


class LinkLost(Exception):
    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.reason)
        self.loss = loss


def remaining_s(deadline: float) -> float:
    return max(0.0, deadline - monotonic())
