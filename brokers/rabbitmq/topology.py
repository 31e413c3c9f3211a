"""Names and arguments of everything the topology needs on RabbitMQ, as plain values, and which member takes which lane.

One durable direct exchange a topic, routing key `<event key>.<lane>`; queues `<group>.<topic>.<lane>` bound by the
exact key of each event type the group takes (streams: `<topic>.<lane>`, all types). `<topic>.DLQ`: the same lanes,
routing key `dead-letter.<lane>`. `<topic>.audit`: a stream bound to every key. Not here: the broker itself (`admin`).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from zlib import crc32

from brokers.rabbitmq.config import RabbitConfig
from core.messaging.topology import DEAD_LETTER_GROUP, DEAD_LETTER_SUFFIX, Topology

DEAD_LETTER_KEY = "dead-letter"
AUDIT_MAX_AGE = "7D"

Arguments = Mapping[str, str | int | bool]

_STREAM: Arguments = {"x-queue-type": "stream", "x-max-age": AUDIT_MAX_AGE}


class Lane(NamedTuple):
    topic: str
    lane: int
    queue: str


class QueuePlan(NamedTuple):
    name: str
    arguments: Arguments
    exchange: str
    routing_keys: tuple[str, ...]


def exchange_of(topology: Topology, topic: str) -> str:
    return topology.prefix + topic


def audit_stream_of(topology: Topology, topic: str) -> str:
    return f"{exchange_of(topology, topic)}.audit"


def routing_key(event_key: str, lane: int) -> str:
    return f"{event_key}.{lane}"


def lanes_of(topology: Topology, config: RabbitConfig, group: str) -> tuple[Lane, ...]:
    """Every lane the group reads, in one order that all its members agree on."""
    owner = "" if config.queue_type == "stream" else f"{group}."
    return tuple(
        Lane(topic, lane, f"{owner}{exchange_of(topology, topic)}.{lane}")
        for topic in topology.topics_of(group)
        for lane in range(topology.partitions)
    )


def exchanges_of(topology: Topology) -> tuple[str, ...]:
    names = (exchange_of(topology, topic) for topic in topology.topics)
    return tuple(name + suffix for name in names for suffix in ("", DEAD_LETTER_SUFFIX))


def queues_of(topology: Topology, config: RabbitConfig) -> Iterator[QueuePlan]:
    for topic in topology.topics:
        exchange = exchange_of(topology, topic)
        if topology.audit and topology.types_of(topic):
            keys = _keys(topology, topology.types_of(topic), range(topology.partitions))
            yield QueuePlan(audit_stream_of(topology, topic), _STREAM, exchange, keys)
        yield from _topic_lanes(topology, config, topic, exchange)
        for lane in _dead_letter_lanes(topology, config, topic):
            keys = (routing_key(DEAD_LETTER_KEY, lane.lane),)
            yield QueuePlan(lane.queue, _lane_arguments(config), exchange + DEAD_LETTER_SUFFIX, keys)


def bound_routes(topology: Topology, config: RabbitConfig) -> frozenset[tuple[str, str]]:
    """(exchange, routing key) of all that some queue takes."""
    return frozenset((plan.exchange, key) for plan in queues_of(topology, config) for key in plan.routing_keys)


def _topic_lanes(topology: Topology, config: RabbitConfig, topic: str, exchange: str) -> Iterator[QueuePlan]:
    if config.queue_type == "stream":
        for lane in range(topology.partitions):
            keys = _keys(topology, topology.types_of(topic), [lane])
            if keys:
                yield QueuePlan(f"{exchange}.{lane}", _lane_arguments(config), exchange, keys)
        return
    for group in topology.groups_of(topic):
        taken = sorted(topology.subscriptions[group].intersection(topology.types_of(topic)))
        for lane in range(topology.partitions):
            arguments = {**_lane_arguments(config), **_net(config, exchange, lane)}
            keys = _keys(topology, taken, [lane])
            yield QueuePlan(f"{group}.{exchange}.{lane}", arguments, exchange, keys)


def _dead_letter_lanes(topology: Topology, config: RabbitConfig, topic: str) -> Iterator[Lane]:
    return (x for x in lanes_of(topology, config, DEAD_LETTER_GROUP) if x.topic == topic + DEAD_LETTER_SUFFIX)


def _keys(topology: Topology, types: tuple[str, ...] | list[str], lanes: range | list[int]) -> tuple[str, ...]:
    return tuple(routing_key(topology.routes[name].event_key, lane) for name in types for lane in lanes)


def _lane_arguments(config: RabbitConfig) -> Arguments:
    """No length limit anywhere: a full queue would refuse one group's copy and keep another's."""
    if config.queue_type == "stream":
        return _STREAM
    shared: Arguments = {"x-queue-type": config.queue_type, "x-single-active-consumer": True}
    if config.queue_type == "classic":
        return shared
    return {**shared, "x-delivery-limit": config.delivery_limit}


def _net(config: RabbitConfig, exchange: str, lane: int) -> Arguments:
    """Where the broker itself would put what it gives up: a net only, letters are published by `dead_letter`."""
    target: Arguments = {
        "x-dead-letter-exchange": exchange + DEAD_LETTER_SUFFIX,
        "x-dead-letter-routing-key": routing_key(DEAD_LETTER_KEY, lane),
    }
    if config.queue_type == "classic":
        return target
    # At-least-once needs overflow=reject-publish; the default strategy may drop a letter on its way.
    return {**target, "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def priorities(slot: int, lanes: int) -> tuple[int, ...]:
    """The consumer priority of the group's member number `slot` (0, 1, 2 ...) in each of the group's `lanes`.

    Members never talk: each holds the lowest free slot (an exclusive queue is the lock) and works out the same table.
    Member n takes its share of lanes/(n+1) from those who then have most, with priority n, so the latest taker of a
    lane wins it and shares differ by at most one. In the other lanes it stands by with a negative priority drawn by
    rendezvous hash (CRC-32 of slot and lane). So the lanes of a dead member go back to those it took them from (member
    1's all to member 0, until the slot is taken again), and only member 0's spread over all others.
    """
    owners = [0] * lanes
    for member in range(1, slot + 1):
        for _ in range(lanes // (member + 1)):
            counts = [owners.count(earlier) for earlier in range(member)]
            richest = counts.index(max(counts))
            owners[len(owners) - 1 - owners[::-1].index(richest)] = member
    return tuple(
        slot if owner == slot else -1 - crc32(f"{slot}/{lane}".encode()) % 1_000 for lane, owner in enumerate(owners)
    )
