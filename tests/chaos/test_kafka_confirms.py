"""The Kafka publisher is told of failures only: is a confirm still never given for a message that the log lacks?

A real broker whose answers are lost, that is paused, or that is killed while batches are in flight. Sent as the relay
sends: a key goes on from its first message that was not confirmed.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from brokers.kafka import KafkaConfig, connect
from brokers.kafka.server import Kafka
from brokers.kafka.topology import declared_topics
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Status
from core.messaging.ports import Admin, Broker, Publisher
from core.messaging.topology import Topology
from faults.network import Proxy, lost_confirm
from servers.process import free_ports
from testbed.services import cache_folder
from tests.contract.profiles import TOPOLOGY, own
from tests.waiting import until

KEYS = 10
AT = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = 3
"""How often each fault strikes in one test."""
NEW_TOPICS = 10
PUBLISHERS = 4
LANES = 12
Fault = Callable[[Kafka, Proxy], None]


def event(sequence: int, key: str) -> Envelope:
    """The id says key and sequence: what is sent again has the same id."""
    return Envelope(f"{key}#{sequence}", "orders", "OrderCreated", "/shop/order", key, sequence, AT, b"{}")


@pytest.fixture(scope="module")
def server_behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, Proxy]]:
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("kafka-confirms")
    server = Kafka(folder, cache_folder(), broker_session_timeout_ms=2_000, proxy_port=port)
    server.start()
    try:
        with Proxy("127.0.0.1", server.ports["proxied"], port) as proxy:
            yield server, proxy
    finally:
        server.stop()


@pytest.fixture
def broker(server_behind_proxy: tuple[Kafka, Proxy]) -> Iterator[Broker]:
    _, proxy = server_behind_proxy
    made = connect(KafkaConfig(f"127.0.0.1:{proxy.port}"), own(TOPOLOGY))
    admin = made.admin()
    admin.declare()
    yield made
    admin.delete()
    admin.close()


class Sender:
    """Publishes batch after batch until told to stop; what it was told of each message is kept."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._next = dict.fromkeys((f"o-{key}" for key in range(KEYS)), 1)
        self.confirmed: set[str] = set()
        self.unknown_messages = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.publish(40, timeout_s=0.4)

    def publish(self, each: int, timeout_s: float) -> None:
        batch = [event(n, key) for i in range(each) for key, first in self._next.items() for n in [first + i]]
        stopped = set()
        for envelope, outcome in zip(batch, self._publisher.publish(batch, timeout_s), strict=True):
            if outcome.is_confirmed:
                self.confirmed.add(envelope.id)
                if envelope.key not in stopped:
                    self._next[envelope.key] += 1
            else:
                assert outcome.status is Status.UNKNOWN, outcome
                self.unknown_messages += 1
                stopped.add(envelope.key)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.confirmed)} confirmed, {self.unknown_messages} unknown"
            time.sleep(0.005)


@contextmanager
def sending(publisher: Publisher) -> Iterator[Sender]:
    sender = Sender(publisher)
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop.set()
        thread.join()
        publisher.close()


def lose_answers(_: Kafka, proxy: Proxy) -> None:
    proxy.apply(lost_confirm())


def pause(server: Kafka, _: Proxy) -> None:
    server.pause()


def kill(server: Kafka, _: Proxy) -> None:
    server.kill()


def heal(fault: Fault, server: Kafka, proxy: Proxy) -> None:
    proxy.heal()
    if fault is pause:
        server.resume()
    if fault is kill:
        server.start()


@pytest.mark.broker("kafka")
@pytest.mark.parametrize("fault", [lose_answers, pause, kill])
def test_what_was_confirmed_while_answers_went_missing_is_in_the_log_and_in_order(
    server_behind_proxy: tuple[Kafka, Proxy], broker: Broker, fault: Fault
) -> None:
    server, proxy = server_behind_proxy
    with sending(broker.publisher()) as sender:
        for _ in range(TIMES):
            confirmed, unknown = len(sender.confirmed), sender.unknown_messages
            sender.until(lambda before=confirmed: len(sender.confirmed) >= before + 2_000)  # type: ignore[misc]
            fault(server, proxy)
            try:
                sender.until(lambda before=unknown: sender.unknown_messages >= before + 1_000)  # type: ignore[misc]
            finally:
                heal(fault, server, proxy)
    admin = broker.admin()
    log = [delivery.envelope for delivery in admin.read_all("orders") if delivery.envelope is not None]
    admin.close()
    assert sender.confirmed - {envelope.id for envelope in log} == set()
    assert len(sender.confirmed) >= 2_000 * TIMES
    assert_in_order(log)


def assert_in_order(log: list[Envelope]) -> None:
    """By first sight, each key counts up without a gap; repeats are the relay's, not the broker's, and allowed."""
    last = dict.fromkeys((f"o-{key}" for key in range(KEYS)), 0)
    for envelope in log:
        assert envelope.sequence is not None
        assert envelope.sequence <= last[envelope.key] + 1, f"{envelope.key}: {envelope.sequence} overtook another"
        last[envelope.key] = max(last[envelope.key], envelope.sequence)


@pytest.mark.broker("kafka")
@pytest.mark.parametrize("fault", [lose_answers, pause])
def test_a_broker_that_never_answers_confirms_nothing(
    server_behind_proxy: tuple[Kafka, Proxy], broker: Broker, fault: Fault
) -> None:
    server, proxy = server_behind_proxy
    publisher = broker.publisher()
    assert publisher.publish([event(1, "warm")], 10.0)[0].is_confirmed
    fault(server, proxy)
    try:
        outcomes = publisher.publish([event(n, f"o-{n % KEYS}") for n in range(1, 301)], 1.0)
    finally:
        heal(fault, server, proxy)
        publisher.close()
    assert {outcome.status for outcome in outcomes} == {Status.UNKNOWN}


@pytest.mark.broker("kafka")
def test_what_was_confirmed_on_lanes_made_just_now_is_in_the_log(server_behind_proxy: tuple[Kafka, Proxy]) -> None:
    """While it takes up a lane the broker may refuse a batch and take the next one, which was sent already.

    Many small batches in flight make that likely; a publisher that sends so from its first message on loses some of
    them, confirmed (docs/decisions, `kafka-first-message-alone`).
    """
    server, _ = server_behind_proxy
    hasty = KafkaConfig(server.url, batch_size_bytes=500, linger_ms=0)
    for _ in range(NEW_TOPICS):
        topology = own(replace(TOPOLOGY, partitions=LANES))
        made = connect(hasty, topology)
        _make_topics(server, topology)
        with closing(made.admin()) as admin:
            with ThreadPoolExecutor(PUBLISHERS) as pool:
                confirmed = set().union(*pool.map(partial(_confirmed_to, made), range(PUBLISHERS)))
            log = {delivery.envelope.id for delivery in admin.read_all("orders") if delivery.envelope is not None}
            admin.delete()
        assert len(confirmed) == PUBLISHERS * 8 * 50
        assert confirmed - log == set()


def _make_topics(server: Kafka, topology: Topology) -> None:
    """As other tools make them: every lane has a leader, whether that one has taken it up or not."""
    admin = AdminClient({"bootstrap.servers": server.url})
    for name, made in admin.create_topics([NewTopic(each, LANES, 1) for each in declared_topics(topology)]).items():
        made.result(20)
        until(partial(_has_leaders, admin, name), 20.0)


def _has_leaders(admin: AdminClient, topic: str) -> bool:
    lanes = admin.list_topics(topic, timeout=20).topics[topic].partitions.values()
    return len(lanes) == LANES and all(lane.leader >= 0 for lane in lanes)


@pytest.mark.broker("kafka")
def test_once_declared_lanes_take_what_nobody_waits_for(server_behind_proxy: tuple[Kafka, Proxy]) -> None:
    """A broker tells of a lane's leader before that one takes it up, and refuses in silence who wants no answer."""
    server, _ = server_behind_proxy
    forgetting = KafkaConfig(server.url, durability="fire-and-forget")
    for _ in range(NEW_TOPICS):
        made = connect(forgetting, own(replace(TOPOLOGY, partitions=10 * LANES)))
        batch = [event(1, f"{key}") for key in range(2_000)]
        with closing(made.publisher()) as publisher, closing(made.admin()) as admin:
            admin.declare()
            publisher.publish(batch, 20.0)
            until(partial(_holds, admin, len(batch)), 20.0)
            admin.delete()


def _holds(admin: Admin, count: int) -> bool:
    return sum(1 for _ in admin.read_all("orders")) == count


def _confirmed_to(broker: Broker, number: int) -> set[str]:
    """One publisher's ids."""
    batch = [event(sequence, f"{number}-{key}") for sequence in range(1, 9) for key in range(50)]
    with closing(broker.publisher()) as publisher:
        outcomes = publisher.publish(batch, 60.0)
    return {envelope.id for envelope, outcome in zip(batch, outcomes, strict=True) if outcome.is_confirmed}


@pytest.mark.row("S0.26", on="kafka")
@pytest.mark.parametrize(("idempotent", "copies"), [(False, 2), (True, 1)])
def test_a_client_that_lost_an_answer_sends_again_by_itself_and_only_an_idempotent_one_leaves_one_copy(
    server_behind_proxy: tuple[Kafka, Proxy], idempotent: bool, copies: int
) -> None:
    """What the publisher's own repeat leaves, two copies on either broker, is in the contract suite."""
    server, proxy = server_behind_proxy
    topic = f"repeated-{idempotent}"
    admin = AdminClient({"bootstrap.servers": server.url})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    told = {"timed_out": 0}

    def note(statistics: str) -> None:
        told["timed_out"] = sum(broker["req_timeouts"] for broker in json.loads(statistics)["brokers"].values())

    client = {"bootstrap.servers": f"127.0.0.1:{proxy.port}", "acks": "all", "enable.idempotence": idempotent}
    quick = {"request.timeout.ms": 500, "socket.timeout.ms": 1_000, "statistics.interval.ms": 50, "stats_cb": note}
    producer = Producer({**client, **quick})
    producer.produce(topic, b"warm")
    assert producer.flush(20) == 0
    reader = Consumer({"bootstrap.servers": server.url, "group.id": "reader"})

    def in_the_log() -> int:
        return int(reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1])

    try:
        proxy.apply(lost_confirm())
        producer.produce(topic, b"order-1")
        deadline = time.monotonic() + 60
        while in_the_log() < 2 or not told["timed_out"]:
            assert time.monotonic() < deadline, told
            producer.poll(0.05)
        proxy.heal()
        assert producer.flush(30) == 0
        assert in_the_log() == 1 + copies
    finally:
        proxy.heal()
        reader.close()
