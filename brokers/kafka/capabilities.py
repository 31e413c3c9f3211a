"""What Kafka promises through this adapter, by profile; the contract suite proves each flag true or false."""

from brokers.kafka.config import KafkaConfig
from core.messaging.capabilities import Capabilities


def capabilities_of(config: KafkaConfig) -> Capabilities:
    return Capabilities(
        profile="kafka" if config.group_protocol == "consumer" else "kafka-classic",
        # acks=0 confirms what was written to a socket: a killed broker may never have read it.
        survives_kill=config.durability != "fire-and-forget",
        replay=True,
        retains_after_ack=True,
        groups=True,
        spreads_lanes=True,
        marks_redelivery=False,
        filters_types=False,
        hands_over_unknown_types=True,
        refuses_unroutable=False,
        partial_refusal=False,
        fsynced_tier=True,
        delay=True,
    )
