"""The port between the shop and a broker: publish a batch, receive a batch, settle it. Synchronous, batch-shaped.

An adapter is a `Broker`. It is used by one process, one role, one thread a publisher or subscriber; it runs what
threads it needs inside. Nothing connects before the first call that needs the broker.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from core.messaging.capabilities import Capabilities
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome
from core.messaging.topology import Topology


class Publisher(Protocol):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        """Return one outcome per envelope, in batch order, within `timeout_s` seconds (plus scheduling).

        Silence, a lost connection or a nack is UNKNOWN; a message the broker (or a local check of size, type or
        topic) certainly did not take is REFUSED. An outcome is never an exception.
        Envelopes sharing a key enter the log in batch order, also across calls: after one that was not confirmed,
        no later one of its key enters before it. What is sent again may repeat, it never overtakes: so a later
        envelope of that key in the same batch that was not sent for this reason is UNKNOWN too.
        """

    def close(self) -> None:
        """Idempotent; what is in flight is given up as UNKNOWN. Safe from another thread."""


class Failure(NamedTuple):
    """Why a delivery was given up: travels as headers on the dead letter."""

    reason: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime


class Delivery(NamedTuple):
    """One hand-over to one group."""

    envelope: Envelope | None
    """None: malformed; `error` says why, `body` and `wire_headers` hold what came."""
    topic: str
    lane: int
    token: object
    """The adapter's own; opaque."""
    attempts: int = 0
    """How often this subscriber handed it over before and had it back through `retry`."""
    redelivered: bool | None = None
    """The broker says that it was handed over before; None where the broker does not mark it (Kafka)."""
    error: str = ""
    body: bytes = b""
    wire_headers: tuple[tuple[str, bytes], ...] = ()
    key: str = ""
    """What fixes order: the envelope's key, or for a malformed delivery whatever key it came with (may be empty)."""
    failure: Failure | None = None
    """Set on what the dead-letter group receives: why it was given up."""
    failed_group: str | None = None
    """Set on what the dead-letter group receives: which group gave it up."""
    origin_topic: str | None = None
    """Set on what the dead-letter group receives: the topic it came from."""
    position: int | None = None
    """Set by the audit reader: its place in the lane's log, growing."""


class Subscriber(Protocol):
    """Order per (group, topic, key) holds across rebalance, retry and crash. Connection loss is handled inside."""

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        """Return 1 to `max_messages` deliveries, or none after `timeout_s`; never waits to fill the batch.

        Malformed bytes are a delivery with `envelope=None`. While the broker is away it returns none.
        """

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """The effects are committed: the broker may forget these. In bulk, any subset, any order.

        A delivery of a connection or assignment since lost is passed over: it comes again.
        """

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        """Hand `failed` over again, no sooner than `after_s` seconds from now, with `attempts` one higher.

        In place: `held` (later deliveries of the same key that were already handed over, in order) and every
        later message of that key come after it; other keys go on. Nothing goes back to the broker.
        """

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        """Publish it to `<topic>.DLQ` with the failure's headers; ack it only if that was confirmed.

        Not confirmed: the delivery is still owed; call again or `retry` it.
        """

    def close(self) -> None:
        """Idempotent; acks already given are flushed, what was not acked comes again. Safe from another thread."""


class Lag(NamedTuple):
    """How far a group is behind in one topic."""

    lag_messages: int
    """Messages not yet acked (Kafka: end minus committed; RabbitMQ: ready + unacked)."""
    delay_s: float | None
    """Age of the oldest of them in seconds; 0.0 if none; None where the broker cannot tell."""
    unacked_told_after_s: float | None = 0.0
    """What another process takes and holds unacked is counted after so long at the latest; None: it never is, so that
    no lag does not say that nothing is on its way."""


class Admin(Protocol):
    def declare(self) -> None:
        """Create what the topology needs; idempotent. Raises TopologyMismatch, BrokerUnavailable."""

    def check_ready(self, timeout_s: float) -> None:
        """Publish one real message to a place of its own and see it confirmed. Raises BrokerUnavailable."""

    def lag(self, group: str) -> Mapping[str, Lag]:
        """By topic, now."""

    def read_all(self, topic: str, since: datetime | None = None) -> Iterator[Delivery]:
        """The audit reader: everything the topic ever carried and still keeps, up to now, in order per key.

        Independent of every group; nothing to ack. Raises NotCapable where the profile keeps nothing.
        """

    def replay(self, group: str, since: datetime | None = None) -> None:
        """Move a group (no member connected) back to the beginning or an instant. Raises NotCapable."""

    def delete(self) -> None:
        """Remove everything `declare` made; for tests and fresh runs."""

    def close(self) -> None: ...


class Broker(Protocol):
    """What each adapter's `connect(...)` returns."""

    @property
    def topology(self) -> Topology: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def publisher(self) -> Publisher: ...

    def subscriber(self, group: str, prefetch_messages: int = 2_000) -> Subscriber:
        """A member of `group`, reading all its topics. At most `prefetch_messages` (a lane at least 1) wait unacked."""

    def admin(self) -> Admin: ...
