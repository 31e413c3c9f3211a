"""What each RabbitMQ profile can do; each flag is proven by the contract tests."""

from brokers.rabbitmq.config import RabbitConfig
from core.messaging.capabilities import Capabilities
from core.messaging.topology import Topology


def capabilities_of(config: RabbitConfig, topology: Topology) -> Capabilities:
    """`fire-and-forget` reports CONFIRMED once the bytes left for the socket: all that this tier promises."""
    is_stream, confirms = config.queue_type == "stream", config.confirms
    return Capabilities(
        profile=config.profile,
        survives_kill=confirms,
        # A quorum or classic queue forgets what was acked; a stream keeps it.
        replay=is_stream,
        retains_after_ack=topology.audit or is_stream,
        # A stream has no server-side position over AMQP 0.9.1 and no balance: one reader reads all lanes.
        groups=not is_stream,
        # Only a quorum queue hands over to a later consumer of higher priority, in order.
        spreads_lanes=config.queue_type == "quorum",
        # A stream delivers everything as if for the first time.
        marks_redelivery=not is_stream,
        filters_types=not is_stream,
        # Queues and streams are bound by exact keys; an alternate exchange would hide what they should have taken.
        hands_over_unknown_types=False,
        refuses_unroutable=confirms and not topology.audit,
        partial_refusal=confirms and not is_stream,
        fsynced_tier=config.queue_type == "quorum",
        # The age of a queue's head is found in the audit stream, nowhere else.
        delay=topology.audit or is_stream,
    )
