"""Which setting of one broker gives the promise that which setting of the other gives: read from the live settings.

The values are those that the adapters really use; only the words that join them are written here.
"""

from typing import TYPE_CHECKING, NamedTuple

from core.messaging.capabilities import Capabilities
from core.messaging.topology import DEAD_LETTER_SUFFIX, Topology
from testbed.settings import DEVELOPMENT_RABBITMQ, Settings

if TYPE_CHECKING:
    from brokers.kafka.config import KafkaConfig
    from brokers.rabbitmq.config import RabbitConfig


class Equivalent(NamedTuple):
    promise: str
    kafka: str
    rabbitmq: str


def kafka_config(settings: Settings) -> "KafkaConfig":
    # Here and not above: a role on the one broker does without the other's client.
    from brokers.kafka.config import KafkaConfig

    return KafkaConfig(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        durability=settings.durability,
        group_protocol=settings.kafka_group_protocol,
        session_timeout_s=settings.session_timeout_s,
        linger_ms=settings.linger_ms,
        compression=settings.compression,
        message_max_bytes=settings.message_max_bytes,
    )


def rabbit_config(settings: Settings) -> "RabbitConfig":
    from brokers.rabbitmq.config import RabbitConfig

    return RabbitConfig(
        # Beside Kafka it is only described, and nothing connects.
        url=settings.rabbitmq_address if settings.broker == "rabbitmq" else DEVELOPMENT_RABBITMQ,
        management_url=settings.rabbitmq_management_url or None,
        queue_type=settings.rabbitmq_queue_type,
        client=settings.rabbitmq_client,
        durability=settings.durability,
        message_max_bytes=settings.message_max_bytes,
        # A silent connection is ended after two to three of them.
        heartbeat_s=max(1, int(settings.session_timeout_s / 3)),
    )


def broker_settings(settings: Settings) -> dict[str, dict[str, str]]:
    """Every client, topic and queue setting of the chosen broker, secrets hidden; nothing for `memory`."""
    match settings.broker:
        case "kafka":
            shown = kafka_config(settings).effective_settings()
            for role in shown.values():
                role.pop("bootstrap.servers", None)
            return shown
        case "rabbitmq":
            from brokers.rabbitmq.effective import effective_settings

            return effective_settings(rabbit_config(settings))
        case "memory":
            return {}


def equivalents(settings: Settings) -> list[Equivalent]:
    """The table that `testbed doctor --settings` and the report show."""
    from brokers.kafka.capabilities import capabilities_of as kafka_capabilities
    from brokers.rabbitmq.capabilities import capabilities_of as rabbit_capabilities
    from brokers.rabbitmq.effective import effective_settings

    kafka = kafka_config(settings).effective_settings()
    rabbit = effective_settings(rabbit_config(settings))
    publisher, topic, reader = kafka["publisher"], kafka["topic"], kafka["subscriber"]
    queue, sender, member = rabbit["group queue"], rabbit["publisher"], rabbit["subscriber"]

    def pairs(values: dict[str, str], *names: str) -> str:
        return ", ".join(f"{name}={values[name]}" for name in names if name in values) or "not set"

    return [
        Equivalent(
            f"durability tier {settings.durability}",
            pairs(publisher, "acks", "enable.idempotence")
            + "; "
            + pairs(topic, "flush.messages").replace("not set", "the page cache, no fsync before the answer"),
            pairs(sender, "delivery_mode", "publisher confirms")
            + "; "
            + pairs(queue, "x-queue-type")
            + {"quorum": " (fsync before the confirm)", "classic": " (no fsync before the confirm)"}.get(
                settings.rabbitmq_queue_type, ""
            ),
        ),
        Equivalent(
            "an ordered lane",
            f"a partition of {settings.partitions}, chosen by CRC-32 of the key",
            f"a queue of {settings.partitions}, chosen by CRC-32 of the key; "
            + pairs(queue, "x-single-active-consumer"),
        ),
        Equivalent(
            "a message nobody takes is noticed",
            "allow.auto.create.topics=False; an unknown topic refuses",
            pairs(sender, "mandatory") + "; basic.return refuses",
        ),
        Equivalent(
            "an event type that this shop does not know",
            _of_strangers(kafka_capabilities(kafka_config(settings))),
            _of_strangers(rabbit_capabilities(rabbit_config(settings), Topology({}, {}, audit=settings.audit))),
        ),
        Equivalent(
            "the publisher gives up by itself",
            pairs(publisher, "message.timeout.ms") + " (never: the port's time-out decides)",
            f"never: the port's time-out decides ({settings.publish_timeout_s:g} s)",
        ),
        Equivalent(
            "small messages wait to leave together",
            pairs(publisher, "linger.ms", "batch.size"),
            "no such setting (LINGER_MS does nothing)",
        ),
        Equivalent(
            "messages are compressed",
            pairs(publisher, "compression.type"),
            "no such setting (COMPRESSION does nothing)",
        ),
        Equivalent("acknowledgement", pairs(reader, "enable.auto.commit"), member["acknowledgement"]),
        Equivalent(
            "lanes are shared in a group",
            pairs(reader, "group.protocol"),
            "consumer priorities on " + pairs(queue, "x-single-active-consumer"),
        ),
        Equivalent(
            "a member that fell silent loses its lanes",
            pairs({**kafka["group"], **reader}, "consumer.session.timeout.ms", "session.timeout.ms")
            + "; a killed one too: its closed connection says nothing",
            pairs(member, "heartbeat_s") + ": after two to three; a killed one at once, by its closed connection. "
            "consumer_timeout, for one message held too long, is the broker's own",
        ),
        Equivalent(
            "a crash never drops a message",
            "positions are committed after the effect",
            pairs(queue, "x-delivery-limit", "x-dead-letter-strategy", "x-overflow"),
        ),
        Equivalent(
            "kept for audit", pairs(topic, "retention.ms"), pairs(rabbit["audit stream"], "x-queue-type", "x-max-age")
        ),
        Equivalent("largest message", pairs(topic, "max.message.bytes"), pairs(sender, "message_max_bytes")),
        Equivalent(
            "copies written an event", "1, whatever the number of groups", "1 a group that takes it, 1 for audit"
        ),
    ]


def _of_strangers(can: Capabilities) -> str:
    if can.hands_over_unknown_types:
        return f"handed to each group of its topic, whose letter goes to <topic>{DEAD_LETTER_SUFFIX} with the reason"
    return "no queue is bound by its key: returned to a publisher that sets mandatory, dropped otherwise"
