"""Real services for the tests: started on first use, once a test process, ended with it (also on Ctrl-C).

With several test processes (pytest-xdist) each has services of its own. What shares a set-up stays in one process: a
file and the broker (in the contract suite: its profile) that its parameters name. Whole runs under load stay in one:
two at once are more than two cores carry. The long ones go first, so that no process works alone at the end.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from brokers.kafka.server import publish_one as publish_to_kafka
from brokers.rabbitmq.server import publish_one as publish_to_rabbitmq
from servers.container import External, engine_answers
from servers.lifecycle import Server
from servers.process import end_orphans
from testbed import services
from tests.contract.profiles import PROFILES
from tests.databases import fresh_database
from tests.matrix import Matrix

# Tests wait for Kafka to start some sixty times: without its second compiler it starts with half the processor time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

WHOLE_RUNS = (
    "tests/system/test_runs.py",
    "tests/system/test_ablation_table.py",
    "tests/system/test_ladder.py",
    "tests/system/test_load_levels.py",
    "tests/system/test_locust_page.py",
)
LONGEST = (
    "tests/system/test_long_runs.py",
    *WHOLE_RUNS,
    "tests/contract/test_behaviours.py",
    "tests/chaos/",
)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs behind it so, and every process of ours would inherit it: Ctrl-C could not be tested.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Matrix(list(PROFILES)), "matrix")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((place for place, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=rank)


class BySetUp(LoadScopeScheduling):
    """xdist's own groups (`--dist loadgroup`) have no effect with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, name = nodeid.partition("::")
        if file.endswith("test_long_runs.py"):
            # Each starts services of its own: nothing is shared, and half an hour must not wait behind another.
            return nodeid
        if file in WHOLE_RUNS:
            return "whole runs"
        parameters = name.partition("[")[2]
        named = [profile for profile in (*PROFILES, "rabbitmq") if profile in parameters]
        return f"{file} {max(named, key=len, default='')}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySetUp:
    return BySetUp(config, log)


pytest_plugins = ["tests.rows"]

# Kafka fences a killed broker for this long; its default of 9 s would be most of every test that kills it.
KAFKA_SESSION_MS = 2_000


@pytest.fixture(scope="session")
def services_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


def _one(name: str, folder: Path) -> Iterator[Server]:
    end_orphans(services.is_kept)
    options = {"kafka": {"broker_session_timeout_ms": KAFKA_SESSION_MS}} if name == "kafka" else {}
    built = services.build([name] if name != "postgres" else [], folder, "native", **options)
    server = built.database if name == "postgres" else built.broker
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server(services_folder: Path) -> Iterator[Server]:
    yield from _one("postgres", services_folder)


@pytest.fixture(scope="session")
def kafka_server(services_folder: Path) -> Iterator[Server]:
    yield from _one("kafka", services_folder)


@pytest.fixture(scope="session")
def rabbitmq_server(services_folder: Path) -> Iterator[Server]:
    yield from _one("rabbitmq", services_folder)


@pytest.fixture(params=["kafka", "rabbitmq"])
def broker_server(request: pytest.FixtureRequest) -> Server:
    """Each real broker in turn; `.name` tells which."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def database(postgres_server: Server) -> Iterator[str]:
    """The URL of a fresh, empty database, dropped after the test."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Tests of containers ask for this: without an engine they are listed as not run."""
    if not engine_answers():
        pytest.skip("not run: no Docker engine")


@pytest.fixture(scope="session")
def kafka_container(docker_engine: None, services_folder: Path) -> Iterator[Server]:
    from testcontainers.kafka import KafkaContainer

    with KafkaContainer("apache/kafka:4.3.1") as running:
        yield External("kafka", services_folder, running.get_bootstrap_server(), publish_to_kafka)


@pytest.fixture(scope="session")
def rabbitmq_container(docker_engine: None, services_folder: Path) -> Iterator[Server]:
    from testcontainers.rabbitmq import RabbitMqContainer

    with RabbitMqContainer("rabbitmq:4-management") as running:
        url = f"amqp://guest:guest@{running.get_container_host_ip()}:{running.get_exposed_port(5672)}/%2F"
        yield External("rabbitmq", services_folder, url, publish_to_rabbitmq)


@pytest.fixture(scope="session", params=["kafka", "rabbitmq"])
def container_broker(request: pytest.FixtureRequest) -> Server:
    """Each broker as a testcontainer, where an engine answers."""
    server: Server = request.getfixturevalue(f"{request.param}_container")
    return server
