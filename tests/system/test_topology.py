"""What a start leaves on each broker, asked of the broker itself: the shape that production has, in every test too."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from brokers.kafka import KafkaConfig, connect
from core.effects.table import topology
from core.messaging.errors import BrokerError
from core.messaging.topology import DEAD_LETTER_GROUP, DEAD_LETTER_SUFFIX, Topology
from servers.lifecycle import Server
from testbed import wiring
from testbed.settings import Settings
from tests.system.shop_threads import settings_for
from tests.waiting import until

SEVEN_DAYS_MS = 7 * 24 * 3_600 * 1_000


@pytest.fixture(params=["kafka", "rabbitmq"])
def started(request: pytest.FixtureRequest, database: str) -> Iterator[Settings]:
    settings = settings_for(request, request.param, database)
    wiring.prepare(settings, products=1)
    yield settings
    admin = wiring.connect_broker(settings).admin()
    admin.delete()
    admin.close()


@pytest.mark.row("S0.20", "S2.7", "S2.22", "S3.21")
def test_after_a_start_the_broker_holds_the_topology_of_production(
    started: Settings, request: pytest.FixtureRequest
) -> None:
    shape = topology(prefix=started.topic_prefix)
    assert wiring.connect_broker(started).topology == shape
    assert wiring.connect_broker(Settings(broker=started.broker)).topology == replace(shape, prefix="")
    assert shape.partitions == 3
    assert {"order-events", "order-commands", "catalog-events", "ticket-applied"} == set(shape.topics)
    server = request.getfixturevalue(f"{started.broker}_server")
    if started.broker == "kafka":
        _kafka_holds(server, shape)
    else:
        _rabbitmq_holds(server, shape)


def _kafka_holds(server: Server, shape: Topology) -> None:
    admin = AdminClient({"bootstrap.servers": server.url})
    found = admin.list_topics(timeout=20).topics
    partitions = {
        name: [len(partition.replicas) for partition in topic.partitions.values()]
        for name, topic in found.items()
        if name.startswith(shape.prefix)
    }
    names = [shape.prefix + topic + suffix for topic in shape.topics for suffix in ("", DEAD_LETTER_SUFFIX)]
    assert partitions == {name: [1, 1, 1] for name in names}
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in names])
    kept = {resource.name: answer.result(20) for resource, answer in asked.items()}
    assert {name: (one["retention.ms"].value, one["retention.bytes"].value) for name, one in kept.items()} == {
        name: (str(SEVEN_DAYS_MS), "-1") for name in names
    }
    # What the controller took the broker knows a moment later.
    until(lambda: _sessions_ms(server, shape) == dict.fromkeys((*shape.subscriptions, DEAD_LETTER_GROUP), "30000"), 30)


def _sessions_ms(server: Server, shape: Topology) -> dict[str, str]:
    """After how long a silent member of each group loses its lanes, by the broker."""
    groups = [
        ConfigResource(ResourceType.GROUP, shape.prefix + group) for group in (*shape.subscriptions, DEAD_LETTER_GROUP)
    ]
    client = AdminClient({"bootstrap.servers": server.url})
    answers = client.describe_configs(groups, request_timeout=20)
    return {
        group.name.removeprefix(shape.prefix): answer.result(20)["consumer.session.timeout.ms"].value
        for group, answer in answers.items()
    }


def test_a_deleted_topology_leaves_no_setting_of_its_groups_on_kafka(kafka_server: Server) -> None:
    shape = replace(topology(), prefix=f"gone{uuid4().hex[:8]}.")
    asked = connect(KafkaConfig(kafka_server.url, session_timeout_s=7.0), shape).admin()
    by_itself = set(_sessions_ms(kafka_server, shape).values())
    asked.declare()
    until(lambda: set(_sessions_ms(kafka_server, shape).values()) == {"7000"}, 30)
    asked.delete()
    until(lambda: set(_sessions_ms(kafka_server, shape).values()) == by_itself == {"10000"}, 30)
    asked.close()


def test_a_session_time_out_that_the_broker_does_not_allow_is_an_error_that_says_so(kafka_server: Server) -> None:
    shape = replace(topology(), prefix=f"long{uuid4().hex[:8]}.")
    admin = connect(KafkaConfig(kafka_server.url, session_timeout_s=1_000.0), shape).admin()
    with pytest.raises(BrokerError, match=r"consumer\.session\.timeout\.ms"):
        admin.declare()
    left = connect(KafkaConfig(kafka_server.url), shape).admin()
    left.delete()
    left.close()
    admin.close()


def _rabbitmq_holds(server: Any, shape: Topology) -> None:
    login = urlsplit(server.url)

    def ask(what: str) -> list[dict[str, Any]]:
        url = f"{server.management_url}/api/{what}/%2F"
        answer = requests.get(url, auth=(str(login.username), str(login.password)), timeout=20)
        found: list[dict[str, Any]] = answer.json()
        return found

    exchanges = [one for one in ask("exchanges") if one["name"].startswith(shape.prefix)]
    assert {one["name"] for one in exchanges} == {
        shape.prefix + topic + suffix for topic in shape.topics for suffix in ("", DEAD_LETTER_SUFFIX)
    }
    assert {(one["type"], one["durable"], one["auto_delete"]) for one in exchanges} == {("direct", True, False)}

    bound = {
        (one["source"], one["routing_key"], one["destination"])
        for one in ask("bindings")
        if one["source"].startswith(shape.prefix)
    }
    wanted = {
        (exchange, f"{shape.routes[name].event_key}.{lane}", f"{group}.{exchange}.{lane}")
        for group, types in shape.subscriptions.items()
        for name in types
        for exchange in [shape.prefix + shape.routes[name].topic]
        for lane in range(shape.partitions)
    }
    letters = [one for one in bound if one[0].endswith(DEAD_LETTER_SUFFIX)]
    assert {one for one in bound if not one[2].endswith(".audit")} - set(letters) == wanted

    queues = {one["name"]: one for one in ask("queues") if shape.prefix in one["name"]}
    assert {queue for _, _, queue in wanted} < queues.keys()
    assert all(queue["durable"] and not queue["auto_delete"] for queue in queues.values())
    # What groups read is gone once acked; the log beside it keeps a week.
    logs = {name: queue["arguments"] for name, queue in queues.items() if name.endswith(".audit")}
    assert logs.keys() == {f"{shape.prefix}{topic}.audit" for topic in shape.topics}
    assert {(given["x-queue-type"], given["x-max-age"]) for given in logs.values()} == {("stream", "7D")}
    assert [name for name, queue in queues.items() if name not in logs and "x-max-age" in queue["arguments"]] == []
    taken = {(exchange, key) for exchange, key, _ in letters}
    for _, _, queue in wanted:
        given = queues[queue]["arguments"]
        assert (given["x-dead-letter-exchange"], given["x-dead-letter-routing-key"]) in taken, queue
