"""The broker profiles that the behaviours judge, and the world a behaviour acts in: its topology, broker and faults.

Everything that differs between brokers on the wire (raw bytes in, raw messages out, faults) stands here, so the
behaviours hold no `if`. Also used by the consumer process that is killed.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

import confluent_kafka
import pika

from brokers import kafka, memory, rabbitmq
from brokers.kafka.capabilities import capabilities_of as kafka_capabilities_of
from brokers.kafka.config import KafkaConfig
from brokers.memory.capabilities import MEMORY
from brokers.memory.store import Record
from brokers.rabbitmq.capabilities import capabilities_of as rabbitmq_capabilities_of
from brokers.rabbitmq.codec import headers_of as amqp_headers_of
from brokers.rabbitmq.config import RabbitConfig
from core.messaging.capabilities import Capabilities
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.messaging.ports import Admin, Broker, Publisher, Subscriber
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology
from faults.network import Proxy, Rule, black_hole, lost_confirm, reset

PROFILES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "memory": ("memory", {}),
    "kafka": ("kafka", {"group_protocol": "consumer"}),
    "kafka-classic": ("kafka", {"group_protocol": "classic", "session_timeout_s": 3.0}),
    "rabbitmq-quorum-pika": ("rabbitmq", {"queue_type": "quorum", "client": "pika"}),
    "rabbitmq-quorum-aio-pika": ("rabbitmq", {"queue_type": "quorum", "client": "aio-pika"}),
    "rabbitmq-classic-pika": ("rabbitmq", {"queue_type": "classic", "client": "pika"}),
    "rabbitmq-stream-pika": ("rabbitmq", {"queue_type": "stream", "client": "pika"}),
}
"""Profile -> its broker, and what its config says beyond the address."""

TOPOLOGY = Topology(
    routes={"OrderCreated": Route("orders", "order.created"), "OrderPaid": Route("orders", "order.paid")},
    subscriptions={
        "billing": frozenset({"OrderCreated", "OrderPaid"}),
        "shipping": frozenset({"OrderCreated"}),
    },
    partitions=3,
)


def own(topology: Topology) -> Topology:
    """With a prefix that no other test has."""
    return replace(topology, prefix=f"t{uuid4().hex[:10]}.")


def connect(profile: str, address: Mapping[str, str], topology: Topology, **more: Any) -> Broker:
    """`address`: `url`, and for RabbitMQ `management_url`; `more`: of its config. Nothing is reached yet."""
    kind, _ = PROFILES[profile]
    adapter = kafka if kind == "kafka" else rabbitmq
    return adapter.connect(config_of(profile, address, **more), topology)


def config_of(profile: str, address: Mapping[str, str], **more: Any) -> Any:
    kind, settings = PROFILES[profile]
    settings = {**settings, **more}
    if kind == "kafka":
        return KafkaConfig(address["url"], **settings)
    return RabbitConfig(address["url"], address.get("management_url"), **settings)


def capabilities_of(profile: str, topology: Topology) -> Capabilities:
    """What the profile declares, before anything runs."""
    if profile == "memory":
        return MEMORY
    if PROFILES[profile][0] == "kafka":
        return kafka_capabilities_of(config_of(profile, {"url": "127.0.0.1:1"}))
    return rabbitmq_capabilities_of(config_of(profile, {"url": "amqp://127.0.0.1:1/"}), topology)


class Server(Protocol):
    """What a behaviour may do to the broker itself."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class WireMessage(NamedTuple):
    """A message as the broker's bare client sees it."""

    place: str
    """Topic/partition, or exchange/routing key."""
    key: bytes | None
    headers: Mapping[str, Any]
    content_type: str | None
    body: bytes


@dataclass
class World:
    """One behaviour's surroundings. Whatever it opens is closed, healed and deleted by `end`."""

    profile: str
    topology: Topology
    broker: Broker
    server: Server
    faulty: Broker
    """The same broker, reached through what `silence`, `lose_confirms` and `cut` break."""
    put_raw: Callable[["World", str, bytes], None]
    put_foreign: Callable[["World", Envelope], bool]
    """As another program, which knows the event's type, publishes it and asks to be told: did the broker take it?"""
    tap: Callable[["World"], Callable[[int], list[WireMessage]]]
    refuse_group: Callable[["World", str], Callable[[], None]]
    apply: Callable[[str], None]
    """`silence`, `lose_confirms`, `cut` or `heal`."""
    with_topology: Callable[[Topology], Broker]
    address: Mapping[str, str]
    opened: list[Publisher | Subscriber | Admin] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    others: list[Broker] = field(default_factory=list)

    def publisher(self, through: Broker | None = None) -> Publisher:
        return self._keep((through or self.broker).publisher())

    def subscriber(self, group: str, prefetch_messages: int = 500, of: Broker | None = None) -> Subscriber:
        return self._keep((of or self.broker).subscriber(group, prefetch_messages))

    def dead_letters(self) -> Subscriber:
        return self.subscriber(DEAD_LETTER_GROUP)

    def admin(self, of: Broker | None = None) -> Admin:
        return self._keep((of or self.broker).admin())

    def another(self, topology: Topology) -> Broker:
        """The same broker with another topology, declared."""
        broker = self.with_topology(topology)
        self.others.append(broker)
        self.admin(broker).declare()
        return broker

    def end(self) -> None:
        self.apply("heal")
        for process in self.processes:
            process.kill()
            process.wait()
        for thing in self.opened:
            thing.close()
        for broker in (*self.others, self.broker):
            admin = broker.admin()
            admin.delete()
            admin.close()

    def _keep(self, thing: Any) -> Any:
        self.opened.append(thing)
        return thing


# Memory


class MemoryServer:
    """The twin's store as a server: it can be restarted, and says of itself that it does not survive a SIGKILL."""

    def __init__(self, store: memory.Store) -> None:
        self.start = store.start
        self.stop = store.stop

    def kill(self) -> None:
        raise AssertionError("the memory twin dies with its process: a behaviour that kills needs survives_kill")


def memory_world(topology: Topology, wrap: Callable[[Broker], Broker] = lambda broker: broker) -> World:
    """`wrap` may break a promise: how the suite itself is tested."""
    store = memory.Store(seed=1)
    config = memory.MemoryConfig(store)

    def with_topology(other: Topology) -> Broker:
        return wrap(memory.connect(config, other))

    def put_raw(world: World, key: str, body: bytes) -> None:
        store.append(
            world.topology.prefix + "orders",
            Record(key, "", datetime.now(UTC), None, "no CloudEvents attribute", body, (("x-odd", b"\xff"),)),
        )

    def put_foreign(world: World, envelope: Envelope) -> bool:
        return put_by_newer(memory.connect(config, newer(world.topology, envelope.type)), envelope)

    def tap(world: World) -> Callable[[int], list[WireMessage]]:
        raise AssertionError("the memory twin has no wire")

    def refuse_group(world: World, group: str) -> Callable[[], None]:
        store.faults = memory.Faults(refusing_groups=frozenset({group}))
        return partial(apply, "heal")

    def apply(fault: str) -> None:
        if fault == "cut":
            store.disconnect()
        else:
            faults = {"silence": memory.Faults(delay_s=3600.0), "lose_confirms": memory.Faults(lost_confirm_ratio=1.0)}
            store.faults = faults.get(fault, memory.Faults())
            store.start()

    broker = with_topology(topology)
    server = MemoryServer(store)
    return World(
        profile="memory",
        topology=topology,
        broker=broker,
        server=server,
        faulty=broker,
        put_raw=put_raw,
        put_foreign=put_foreign,
        tap=tap,
        refuse_group=refuse_group,
        apply=apply,
        with_topology=with_topology,
        address={"url": "memory"},
    )


def newer(topology: Topology, type: str) -> Topology:
    """What a later version of the program publishes: one type more."""
    return replace(topology, routes={**topology.routes, type: Route("orders", f"{type.lower()}.newer")})


def put_by_newer(broker: Broker, envelope: Envelope) -> bool:
    publisher = broker.publisher()
    [outcome] = publisher.publish([envelope], 20.0)
    publisher.close()
    return outcome.is_confirmed


# Real brokers

RULES: Mapping[str, Rule] = {
    "silence": black_hole(),
    "lose_confirms": lost_confirm(),
    "cut": reset(),
    "heal": Rule(),
}


def real_world(
    profile: str,
    topology: Topology,
    server: Server,
    address: Mapping[str, str],
    proxied: Mapping[str, str],
    proxy: Proxy,
) -> World:
    def refuse(world: World, group: str) -> Callable[[], None]:
        # Quorum queues of a group refuse from their first message beyond the limit on (overflow: reject-publish).
        name = f"full-{world.topology.prefix}"
        pattern = "^" + f"{group}.{world.topology.prefix}".replace(".", "[.]")
        limits = json.dumps({"max-length": 1, "overflow": "reject-publish"})
        server.control("set_policy", "--apply-to", "queues", "--priority", "9", name, pattern, limits)  # type: ignore[attr-defined]
        return lambda: server.control("clear_policy", name)  # type: ignore[attr-defined]

    is_kafka = PROFILES[profile][0] == "kafka"
    return World(
        profile=profile,
        topology=topology,
        broker=connect(profile, address, topology),
        server=server,
        faulty=connect(profile, proxied, topology),
        put_raw=put_raw_kafka if is_kafka else put_raw_amqp,
        put_foreign=put_foreign_kafka if is_kafka else put_foreign_amqp,
        tap=tap_kafka if is_kafka else tap_amqp,
        refuse_group=refuse,
        apply=lambda fault: proxy.apply(RULES[fault]) and None,
        with_topology=partial(connect, profile, address),
        address=address,
    )


def put_raw_kafka(world: World, key: str, body: bytes) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": world.address["url"], "acks": "all"})
    producer.produce(
        f"{world.topology.prefix}orders",
        value=body,
        key=key.encode(),
        partition=lane_of(key, world.topology.partitions),
        headers=[("x-odd", b"\xff")],
    )
    assert producer.flush(20) == 0


def put_raw_amqp(world: World, key: str, body: bytes) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(world.address["url"]))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish(
        f"{world.topology.prefix}orders",
        f"order.created.{lane_of(key, world.topology.partitions)}",
        body,
        pika.BasicProperties(delivery_mode=2, headers={"x-odd": b"\xff"}),
        mandatory=True,
    )
    connection.close()


def put_foreign_kafka(world: World, envelope: Envelope) -> bool:
    return put_by_newer(world.with_topology(newer(world.topology, envelope.type)), envelope)


def put_foreign_amqp(world: World, envelope: Envelope) -> bool:
    """By the bare client: our own publisher would declare the route that is not there."""
    connection = pika.BlockingConnection(pika.URLParameters(world.address["url"]))
    channel = connection.channel()
    channel.confirm_delivery()
    lane = lane_of(envelope.key, world.topology.partitions)
    properties = pika.BasicProperties(delivery_mode=2, headers=dict(amqp_headers_of(envelope, 0)))
    try:
        channel.basic_publish(
            f"{world.topology.prefix}orders", f"order.newer.{lane}", envelope.data, properties, mandatory=True
        )
    except pika.exceptions.UnroutableError:
        return False
    finally:
        connection.close()
    return True


def tap_kafka(world: World) -> Callable[[int], list[WireMessage]]:
    def read(count: int) -> list[WireMessage]:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": world.address["url"],
                "group.id": f"{world.topology.prefix}tap",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        lanes = range(world.topology.partitions)
        consumer.assign([confluent_kafka.TopicPartition(f"{world.topology.prefix}orders", lane, 0) for lane in lanes])
        found = consumer.consume(count, 20)
        consumer.close()
        return [
            WireMessage(f"{m.topic()}/{m.partition()}", m.key(), dict(m.headers() or ()), None, m.value())
            for m in found
        ]

    return read


def tap_amqp(world: World) -> Callable[[int], list[WireMessage]]:
    """A queue of the test's own beside the groups' queues; bound before anything is published."""
    connection = pika.BlockingConnection(pika.URLParameters(world.address["url"]))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for route in world.topology.routes.values():
        for lane in range(world.topology.partitions):
            channel.queue_bind(queue, f"{world.topology.prefix}{route.topic}", f"{route.event_key}.{lane}")

    def read(count: int) -> list[WireMessage]:
        found: list[WireMessage] = []
        for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=20):
            if method is None:
                break
            place = f"{method.exchange}/{method.routing_key}"
            found.append(WireMessage(place, None, properties.headers, properties.content_type, body))
            if len(found) == count:
                break
        connection.close()
        return found

    return read


def committed_kafka(world: World, group: str) -> list[int]:
    """The position that the group has committed, lane by lane: below 0 where it has none."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": world.address["url"], "group.id": world.topology.prefix + group}
    )
    lanes = range(world.topology.partitions)
    asked = [confluent_kafka.TopicPartition(f"{world.topology.prefix}orders", lane) for lane in lanes]
    found = [partition.offset for partition in consumer.committed(asked, timeout=20)]
    consumer.close()
    return found


def ready_amqp(world: World, group: str) -> list[int]:
    """How many messages each of the group's queues still holds for whoever reads next."""
    connection = pika.BlockingConnection(pika.URLParameters(world.address["url"]))
    channel = connection.channel()
    names = [f"{group}.{world.topology.prefix}orders.{lane}" for lane in range(world.topology.partitions)]
    found = [channel.queue_declare(name, passive=True).method.message_count for name in names]
    connection.close()
    return found
