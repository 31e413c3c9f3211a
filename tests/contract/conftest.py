"""Servers for the contract suite, one world a test. The matrix at the end is `tests/matrix.py`.

Brokers of its own, because it kills them and because Kafka must advertise the proxy. A behaviour that a profile does
not promise is not run and stands in the matrix with the capability it lacks.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from brokers.kafka.server import Kafka
from brokers.rabbitmq.server import RabbitMQ
from faults.network import Proxy
from servers.process import free_ports
from testbed.services import cache_folder, management_url_of
from tests.contract.profiles import PROFILES, TOPOLOGY, World, capabilities_of, memory_world, own, real_world
from tests.matrix import PROPERTY


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities, **topology): the behaviour is promised only with these")
    config.addinivalue_line("markers", "profiles(*names): a dear behaviour, judged on these alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("profiles")
        metafunc.parametrize("world", marker.args if marker else list(PROFILES), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    matrix = config.pluginmanager.get_plugin("matrix")
    for item in items:
        profile = profile_of(item)
        lacks = lacking(item, profile) if profile else []
        if profile and lacks:
            matrix.not_promised(behaviour_of(item), profile, lacks)
            dropped.append(item)
        else:
            if profile:
                item.user_properties.append((PROPERTY, (behaviour_of(item), profile)))
            kept.append(item)
    # By profile, so that a broker that is not under test idles.
    order = {profile: number for number, profile in enumerate(PROFILES)}
    kept.sort(key=lambda item: order.get(profile_of(item) or "", -1))
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def profile_of(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    name = call.params.get("world") if call is not None else None
    return str(name) if name is not None else None


def behaviour_of(item: pytest.Item) -> str:
    return item.name.partition("[")[0].removeprefix("test_")


def lacking(item: pytest.Item, profile: str) -> list[str]:
    # The twin encodes nothing, so there is no wire to read from.
    flags = {**capabilities_of(profile, topology_of(item)).flags(), "wire": profile != "memory"}
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    return [name for name in wanted if not flags[name]]


def kills(item: pytest.Item) -> bool:
    return any("survives_kill" in marker.args for marker in item.iter_markers("needs"))


def topology_of(item: pytest.Item) -> Any:
    shape: dict[str, Any] = {}
    for marker in item.iter_markers("needs"):
        shape.update(marker.kwargs)
    return replace(TOPOLOGY, **shape)


@pytest.fixture(scope="session")
def kafka_world_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, Proxy]]:
    (port,) = free_ports(1)
    server = Kafka(
        tmp_path_factory.mktemp("kafka"),
        cache_folder(),
        broker_session_timeout_ms=2_000,
        group_session_timeout_ms=3_000,
        group_heartbeat_interval_ms=500,
        proxy_port=port,
    )
    server.start()
    try:
        with Proxy("127.0.0.1", server.ports["proxied"], port) as proxy:
            yield server, proxy
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rabbitmq_world_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, Proxy]]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), cache_folder())
    server.start()
    try:
        with Proxy("127.0.0.1", server.ports["port"]) as proxy:
            yield server, proxy
    finally:
        server.stop()


@pytest.fixture
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    profile: str = request.param
    if not kills(request.node):
        # Only a SIGKILL right after it could undo a declaration: for the others the wait is a second for nothing.
        monkeypatch.setattr("brokers.rabbitmq.admin._REGISTERED_S", 0.0)
    topology = own(topology_of(request.node))
    made = make_world(profile, topology, request)
    made.admin().declare()
    try:
        yield made
    finally:
        made.end()


def make_world(profile: str, topology: Any, request: pytest.FixtureRequest) -> World:
    kind = PROFILES[profile][0]
    if kind == "memory":
        return memory_world(topology)
    server, proxy = request.getfixturevalue(f"{kind}_world_server")
    if kind == "kafka":
        proxied = {"url": f"127.0.0.1:{proxy.port}"}
        return real_world(profile, topology, server, {"url": server.url}, proxied, proxy)
    parts = urlsplit(server.url)
    address = {"url": server.url, "management_url": management_url_of(server)}
    through = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}")
    return real_world(profile, topology, server, address, {**address, "url": urlunsplit(through)}, proxy)
