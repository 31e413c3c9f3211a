"""What is published where and who takes it: topics, lanes, event types and consumer groups, as one frozen value.

Adapters derive everything from it: Kafka topics and partitions; RabbitMQ exchanges, queues and bindings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from core.messaging.errors import UnroutedType

DEAD_LETTER_SUFFIX = ".DLQ"
DEAD_LETTER_GROUP = "dead-letter-service"


class Route(NamedTuple):
    topic: str
    event_key: str
    """Dotted and lower case, e.g. order.created: RabbitMQ's routing key before the lane."""


@dataclass(frozen=True)
class Topology:
    routes: Mapping[str, Route]
    """Event type -> where it goes. The one table; nothing derives a name from a class name."""
    subscriptions: Mapping[str, frozenset[str]]
    """Consumer group -> the event types it takes."""
    partitions: int = 3
    """Lanes of every topic (dead letters too, so that a key's letters stay in order)."""
    audit: bool = True
    """Keep an audit log of every topic (Kafka: the log itself; RabbitMQ: a stream)."""
    prefix: str = ""
    """Put before every topic name on the broker, so that tests and testbeds can share one."""
    audit_only: frozenset[str] = frozenset()
    """Event types that no group takes and that are published all the same: the audit log keeps them."""
    extra_topics: frozenset[str] = field(default_factory=frozenset)
    """Topics to declare although no route names them (tests of unroutable topics)."""

    @cached_property
    def topics(self) -> tuple[str, ...]:
        return tuple(sorted({route.topic for route in self.routes.values()} | self.extra_topics))

    def topic_of(self, name: str) -> str | None:
        """The topic that a name means, whatever its dots, dashes and capitals; None: none of ours.

        A topic's own name, with a prefix or the suffix of its dead letters; an event type or its key, by which systems
        with a topic for each type name it (`ordercreated`, `marketplace.order.created`).
        """
        words = _words(name)
        if words and words[-1] in ("dlq", "dlt"):
            words.pop()
        known = {
            "".join(_words(key)): route.topic for name, route in self.routes.items() for key in (name, route.event_key)
        } | {"".join(_words(topic)): topic for topic in self.topics}
        ends = ("".join(words[first:]) for first in range(len(words)))
        return next((known[end] for end in ends if end in known), None)

    def types_of(self, topic: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, route in self.routes.items() if route.topic == topic))

    def topics_of(self, group: str) -> tuple[str, ...]:
        """Topics a group reads; the dead-letter service reads each topic's dead letters."""
        if group == DEAD_LETTER_GROUP:
            return tuple(topic + DEAD_LETTER_SUFFIX for topic in self.topics)
        return tuple(sorted({self.routes[name].topic for name in self.subscriptions[group]}))

    def left_to_others(self, group: str) -> frozenset[str]:
        """Types of the routing table that the group does not take: all that its subscriber may pass over in silence.

        A type that no route knows is none of them: it is handed over, and becomes a dead letter with that reason.
        """
        return frozenset() if group == DEAD_LETTER_GROUP else frozenset(self.routes) - self.subscriptions[group]

    def groups_of(self, topic: str) -> tuple[str, ...]:
        return tuple(sorted(group for group in self.subscriptions if topic in self.topics_of(group)))

    def check(self) -> None:
        """Refuse a topology in which a published type reaches nobody or a subscribed one is never published.

        The audit stream makes every type routable, so the broker's own `mandatory` would not notice.
        """
        taken = frozenset().union(*self.subscriptions.values()) if self.subscriptions else frozenset()
        for name in self.routes:
            if name in self.audit_only and not self.audit:
                raise UnroutedType(name, "would go to the audit log alone, and that is off; subscribe a group")
            if name not in taken | self.audit_only:
                raise UnroutedType(name, "has no consumer group; subscribe one or remove its route")
        for name in sorted(taken - self.routes.keys()):
            raise UnroutedType(name, "is subscribed but has no route; add it to the routing table")


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
