"""Servers for the contract suite, one world a test, and the matrix of behaviours and profiles at the end.

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
from testbed.services import cache_folder
from tests.contract.profiles import PROFILES, TOPOLOGY, World, capabilities_of, memory_world, own, real_world

MATRIX = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MATRIX] = {}
    config.addinivalue_line("markers", "needs(*capabilities, **topology): the behaviour is promised only with these")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("world", list(PROFILES), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        profile = profile_of(item)
        lacks = lacking(item, profile) if profile else []
        if profile and lacks:
            config.stash[MATRIX][behaviour_of(item), profile] = f"not promised: {', '.join(lacks)}"
            dropped.append(item)
        else:
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


def topology_of(item: pytest.Item) -> Any:
    shape: dict[str, Any] = {}
    for marker in item.iter_markers("needs"):
        shape.update(marker.kwargs)
    return replace(TOPOLOGY, **shape)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    profile = profile_of(item)
    if profile is None:
        return
    matrix = item.config.stash[MATRIX]
    cell = (behaviour_of(item), profile)
    if report.when == "call" or report.outcome != "passed":
        matrix[cell] = "failed" if matrix.get(cell) == "failed" else report.outcome


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    matrix = config.stash[MATRIX]
    if not matrix:
        return
    profiles = [profile for profile in PROFILES if any(p == profile for _, p in matrix)]
    words = {"passed": "ok", "failed": "FAILED", "skipped": "SKIPPED", "not run": "not run"}
    width = max(len(profile) for profile in profiles) + 2
    terminalreporter.section("behaviours by broker profile ('no X': not promised, for want of capability X)")
    terminalreporter.write_line("".join(profile.ljust(width) for profile in profiles))
    rows = {behaviour: [matrix.get((behaviour, p), "not run") for p in profiles] for behaviour, _ in matrix}
    for behaviour, cells in sorted(rows.items()):
        terminalreporter.write_line(f"- {behaviour.replace('_', ' ')}")
        shown = [words.get(cell, cell.replace("not promised:", "no")) for cell in cells]
        terminalreporter.write_line("".join(cell[: width - 1].ljust(width) for cell in shown))
    for number, profile in enumerate(profiles):
        cells = [row[number] for row in rows.values()]
        counts = {kind: cells.count(kind) for kind in ("passed", "failed", "skipped", "not run")}
        counts["not promised"] = len(cells) - sum(counts.values())
        terminalreporter.write_line(f"{profile}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items() if n))


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
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    profile: str = request.param
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
    management = urlsplit(server.management_url)
    login = f"{parts.username}:{parts.password}@"
    address = {
        "url": server.url,
        "management_url": urlunsplit(management._replace(netloc=login + management.netloc)),
    }
    through = parts._replace(netloc=f"{login}127.0.0.1:{proxy.port}")
    return real_world(profile, topology, server, address, {**address, "url": urlunsplit(through)}, proxy)
