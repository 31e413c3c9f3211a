"""Publish envelopes to their topic's exchange. Not here: order, confirms and reconnecting (`sender`)."""

from collections.abc import Callable, Sequence
from time import time

from brokers.rabbitmq.codec import Outgoing, encode_table, headers_of
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.sender import Sender, deadline_after
from brokers.rabbitmq.topology import bound_routes, exchange_of, routing_key
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.outcomes import Outcome, refused, unknown
from core.messaging.topology import Topology


class RabbitPublisher:
    def __init__(self, config: RabbitConfig, topology: Topology, redeclare: Callable[[], None]) -> None:
        self._config, self._topology = config, topology
        self._sender = Sender(config, f"{topology.prefix}publisher", redeclare, bound_routes(topology, config))
        self._lanes = topology.partitions
        self._event_keys = {(route.topic, name): route.event_key for name, route in topology.routes.items()}
        self._exchanges = {topic: exchange_of(topology, topic) for topic in topology.topics}

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        deadline = deadline_after(timeout_s)
        if not batch:
            return []
        published_ms = int(time() * 1000)

        def outgoing(index: int) -> Outgoing:
            return self._outgoing(batch[index], published_ms)

        keys = [envelope.key for envelope in batch]
        return self._sender.send(keys, outgoing, self._checked(batch), deadline)

    def close(self) -> None:
        self._sender.close()

    def _checked(self, batch: Sequence[Envelope]) -> list[Outcome | None]:
        """What is refused without asking the broker, and what must then not be sent: later ones of that key."""
        outcomes: list[Outcome | None] = [None] * len(batch)
        refused_keys: set[str] = set()
        for index, envelope in enumerate(batch):
            reason = self._refusal(envelope)
            if envelope.key in refused_keys:
                outcomes[index] = unknown("not sent: an earlier message of its key was refused")
            elif reason is not None:
                refused_keys.add(envelope.key)
                outcomes[index] = refused(reason)
        return outcomes

    def _refusal(self, envelope: Envelope) -> str | None:
        if len(envelope.data) > self._config.message_max_bytes:
            return f"{len(envelope.data)} bytes, at most {self._config.message_max_bytes} are taken (message_max_bytes)"
        if envelope.topic not in self._exchanges:
            return f"topic {envelope.topic} is not in the topology"
        if (envelope.topic, envelope.type) not in self._event_keys and self._topology.types_of(envelope.topic):
            return f"event type {envelope.type} has no route to topic {envelope.topic}"
        if len(envelope.id.encode()) > 255:
            return "the id is over 255 bytes"
        if envelope.headers or envelope.occurred_at.tzinfo is None:
            try:
                encode_table(headers_of(envelope, 0))
            except ValueError as wrong:
                return str(wrong)
        return None

    def _outgoing(self, envelope: Envelope, published_ms: int) -> Outgoing:
        # A topic without routes (`extra_topics`) has no queue: the broker itself says so, by its return.
        event_key = self._event_keys.get((envelope.topic, envelope.type), envelope.type)
        return Outgoing(
            self._exchanges[envelope.topic],
            routing_key(event_key, lane_of(envelope.key, self._lanes)),
            envelope.id,
            int(envelope.occurred_at.timestamp()),
            headers_of(envelope, published_ms),
            envelope.data,
            self._config.confirms,
        )
