"""Every RabbitMQ client, queue and exchange setting in use, as text without secrets: for run.json and people."""

from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.topology import queues_of
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology


def effective_settings(config: RabbitConfig) -> dict[str, dict[str, str]]:
    """Publisher, subscriber, group queue, dead-letter queue and audit stream; a sample topology names the queues."""
    sample = Topology({"Fact": Route("topic", "fact")}, {"group": frozenset({"Fact"})}, partitions=1)
    plans = {plan.name: plan.arguments for plan in queues_of(sample, config)}

    def arguments(name: str) -> dict[str, str]:
        return {key: str(value) for key, value in sorted(plans.get(name, {}).items())}

    group_queue = "topic.0" if config.queue_type == "stream" else "group.topic.0"
    return {
        "publisher": {
            "client": config.client,
            "delivery_mode": "2 (persistent)" if config.confirms else "1 (transient)",
            "mandatory": "True",
            "publisher confirms": str(config.confirms),
            "window_messages": str(config.publish_window_messages),
            "message_max_bytes": str(config.message_max_bytes),
            "heartbeat_s": str(config.heartbeat_s),
        },
        "subscriber": {
            "client": config.client,
            "acknowledgement": "manual, after the commit, in bulk",
            "heartbeat_s": str(config.heartbeat_s),
        },
        "exchange": {"type": "direct", "durable": "True"},
        "group queue": arguments(group_queue),
        "dead-letter queue": arguments(f"{DEAD_LETTER_GROUP}.topic.DLQ.0"),
        "audit stream": arguments("topic.audit"),
    }
