"""What the port's topology is called on Kafka: one topic a topic, one a dead-letter topic, one group id a group.

Group ids carry the topology's prefix too, so that two testbeds on one broker never become one group.
"""

from core.messaging.topology import DEAD_LETTER_GROUP, DEAD_LETTER_SUFFIX, Topology

READY_TOPIC = "testbed-ready"
"""Where `check_ready` publishes; nobody reads it."""


def broker_topic(topology: Topology, topic: str) -> str:
    return topology.prefix + topic


def port_topic(topology: Topology, broker_name: str) -> str:
    return broker_name.removeprefix(topology.prefix)


def group_id(topology: Topology, group: str) -> str:
    return topology.prefix + group


def dead_letter_topic(topic: str) -> str:
    return topic + DEAD_LETTER_SUFFIX


def declared_topics(topology: Topology) -> tuple[str, ...]:
    """Every topic's name on the broker, dead letters included."""
    return tuple(
        broker_topic(topology, name) for topic in topology.topics for name in (topic, dead_letter_topic(topic))
    )


def groups(topology: Topology) -> tuple[str, ...]:
    return tuple(sorted({*topology.subscriptions, DEAD_LETTER_GROUP}))
