"""What only the memory twin has: faults on demand, drawn from a seed. Its promises are judged by the contract suite."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest

from brokers.memory import Faults, MemoryBroker, MemoryConfig, Store, connect
from core.messaging.envelope import Envelope
from core.messaging.errors import BrokerError, BrokerUnavailable, TopologyMismatch
from core.messaging.outcomes import Status
from core.messaging.ports import Lag
from core.messaging.topology import Route, Topology

TOPOLOGY = Topology({"Made": Route("things", "thing.made")}, {"stock": frozenset({"Made"})}, partitions=2)


def made(number: int, key: str = "k", data: bytes = b"{}") -> Envelope:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Envelope(f"id-{number}", "things", "Made", "/shop/thing", key, number, at, data)


def broker(seed: int = 0, topology: Topology = TOPOLOGY, store: Store | None = None) -> MemoryBroker:
    made_broker = connect(MemoryConfig(store or Store(seed)), topology)
    made_broker.admin().declare()
    return made_broker


def in_the_log(b: MemoryBroker) -> list[str]:
    return [d.envelope.id for d in b.admin().read_all("things") if d.envelope]


def test_a_lost_confirm_is_unknown_and_the_message_is_there() -> None:
    b = broker()
    b.config.store.faults = Faults(lost_confirm_ratio=1.0)
    assert [o.status for o in b.publisher().publish([made(1)], 1.0)] == [Status.UNKNOWN]
    assert in_the_log(b) == ["id-1"]


def test_a_lost_request_is_unknown_and_the_message_is_not_there_nor_any_later_one_of_its_key() -> None:
    b = broker()
    b.config.store.faults = Faults(lost_request_ratio=1.0)
    outcomes = b.publisher().publish([made(1), made(2)], 1.0)
    assert [o.status for o in outcomes] == [Status.UNKNOWN] * 2
    assert in_the_log(b) == []


def test_a_refusal_stops_its_key_and_no_other() -> None:
    b = broker()
    b.config.store.faults = Faults(refuse=lambda r: "no" if r.envelope and r.envelope.id == "id-2" else "")
    batch = [made(1, "a"), made(2, "a"), made(3, "b"), made(4, "a")]
    statuses = [o.status for o in b.publisher().publish(batch, 1.0)]
    assert statuses == [Status.CONFIRMED, Status.REFUSED, Status.CONFIRMED, Status.UNKNOWN]
    assert sorted(in_the_log(b)) == ["id-1", "id-3"]


def test_the_same_seed_gives_the_same_losses_and_another_seed_gives_others() -> None:
    def losses(seed: int) -> list[Status]:
        b = broker(seed)
        b.config.store.faults = Faults(lost_confirm_ratio=0.5)
        return [o.status for o in b.publisher().publish([made(n, str(n)) for n in range(40)], 1.0)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
    assert set(losses(1)) == {Status.CONFIRMED, Status.UNKNOWN}


def test_a_store_that_went_away_leaves_publishes_unknown_and_takes_them_when_it_is_back() -> None:
    b = broker()
    b.config.store.stop()
    assert b.publisher().publish([made(1)], 0.01)[0].status is Status.UNKNOWN
    with pytest.raises(BrokerUnavailable):
        b.admin().check_ready(0.01)
    back = Thread(target=b.config.store.start)
    back.start()
    assert b.publisher().publish([made(2)], 5.0)[0].is_confirmed
    back.join()
    assert in_the_log(b) == ["id-2"]


def test_a_lost_connection_brings_back_what_was_not_acked_marked_and_passes_over_a_late_ack() -> None:
    b = broker()
    b.publisher().publish([made(1), made(2)], 1.0)
    subscriber = b.subscriber("stock")
    first = subscriber.receive(10, 1.0)
    assert [d.redelivered for d in first] == [False, False]
    b.config.store.disconnect()
    subscriber.ack(first)
    again = subscriber.receive(10, 1.0)
    assert [(d.envelope.id, d.redelivered) for d in again if d.envelope] == [("id-1", True), ("id-2", True)]


def test_topics_of_other_lanes_are_a_mismatch_that_names_the_argument() -> None:
    store = Store()
    broker(store=store)
    wider = Topology(TOPOLOGY.routes, TOPOLOGY.subscriptions, partitions=5)
    with pytest.raises(TopologyMismatch, match="partitions=2, wanted 5"):
        broker(topology=wider, store=store)


def test_a_group_with_a_member_connected_is_not_replayed() -> None:
    b = broker()
    subscriber = b.subscriber("stock")
    subscriber.receive(1, 0.0)
    with pytest.raises(BrokerError, match="1 members connected"):
        b.admin().replay("stock")


def test_lag_counts_what_is_not_acked_and_tells_the_age_of_the_oldest() -> None:
    clock = [datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)]
    b = broker(store=Store(now=lambda: clock[0]))
    b.publisher().publish([made(1), made(2, "z")], 1.0)
    clock[0] = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
    assert b.admin().lag("stock")["things"] == Lag(2, 30.0)
    subscriber = b.subscriber("stock")
    subscriber.ack(subscriber.receive(10, 0.0))
    assert b.admin().lag("stock")["things"] == Lag(0, 0.0)


WITHOUT_A_NETWORK = """
import socket, sys

def refused(*_, **__):
    raise AssertionError("something wanted a network")

socket.socket.connect = socket.socket.bind = refused
from testbed import wiring
from testbed.settings import read_settings
from tests.mixed_orders import Traffic

broker = wiring.connect_broker(read_settings())
broker.admin().declare()
created = Traffic(seed=1).order(7)[0]
assert broker.publisher().publish([created], 5.0)[0].is_confirmed
assert [d.envelope for d in broker.subscriber("notification-service").receive(10, 5.0)] == [created]
loaded = {"confluent_kafka", "pika", "aio_pika", "aiormq"} & sys.modules.keys()
assert not loaded, loaded
"""


@pytest.mark.row("S2.21")
def test_broker_memory_stands_in_for_the_client_without_a_network_or_a_client_library() -> None:
    environment = {**os.environ, "BROKER": "memory", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_NETWORK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
