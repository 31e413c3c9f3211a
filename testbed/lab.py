"""The system under test of one run: real services, a database of its own, every role a real process.

Implements `benchmarks.phases.System`. Role processes carry the same mark as services, so whatever a killed parent
leaves behind is found and ended at the next start.
"""

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.phases import RunBroken
from benchmarks.scenario import Scenario
from core.commands.catalogue import seed_catalogue
from core.domain.events import EVENT_TYPES
from core.journey import Step
from core.messaging.envelope import Envelope
from core.messaging.errors import BrokerError
from core.messaging.ports import Admin, Lag
from core.messaging.topology import DEAD_LETTER_GROUP, Topology
from core.outbox.rows import add_events
from core.outbox.storage import measure_depth
from core.storage.database import create_database_engine, wait_for_database
from core.storage.event_store import event_as_envelope, new_event_id
from core.storage.outside_calls import count_reserved
from faults.catalogue import FaultMissed
from faults.network import Proxy
from history.recorder import Recorder
from servers.lifecycle import Server
from servers.process import OWNER, PARENT, free_ports, identify, tail, wait_until
from testbed import wiring
from testbed.equivalence import equivalents
from testbed.ledger import export_ledger
from testbed.revision import git_revision
from testbed.role_process import ROOT, STOP_TIMEOUT_S, RoleProcess, Slowed
from testbed.sampling import Sampler
from testbed.services import Services
from testbed.settings import SEAMS, Settings

READY_S = 90.0
"""A role's start: a second or two, many times that beside other work. Who dies meanwhile is seen at once."""
CRASH_TIMEOUT_S = 30.0
AGAIN_TIMEOUT_S = 15.0


class RunLab:
    """With the whole shop, its load entering by HTTP. `driven_lab` holds those whose load enters below."""

    DRIVER_EXITS: tuple[int | None, ...] = (None, 0, 1)
    """Locust's own answer to a failed request is exit code 1; what failed is judged from the history."""
    CONSUMES = "consumer"
    """The role that reads to the end in the drain."""

    def __init__(
        self,
        services: Services,
        settings: Settings,
        scenario: Scenario,
        folder: Path,
        recorder: Recorder,
        proxy: Proxy | None = None,
    ) -> None:
        """`settings`: as asked for; addresses, database and prefix of the run replace those in it.

        With a `proxy` every role reaches the broker through it; what watches the run does not.
        """
        self._services = services
        self._proxy = proxy
        self._slowed: Slowed | None = None
        self._scenario = scenario
        # The roles run in the clone's folder, wherever this was called from.
        self._folder = folder.absolute()
        self._recorder = recorder
        self._port, self._outside_port = free_ports(2)
        self._outside_record = self._folder / "ledger" / "outside_calls.ndjson"
        self._database_name = f"run_{uuid.uuid4().hex[:12]}"
        self._settings = settings.model_copy(update={**self._addresses(), "topic_prefix": f"{self._database_name}."})
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        self._roles: list[RoleProcess] = []
        self._driver: RoleProcess | None = None
        self._sampler: Sampler | None = None
        self._database: wiring.Database | None = None
        self._admin: Admin | None = None
        self._admin_lock = threading.Lock()

    # faults.catalogue.Lab

    @property
    def broker_server(self) -> Server:
        return self._services.broker

    @property
    def database_server(self) -> Server:
        return self._services.database

    @property
    def network(self) -> Proxy:
        if self._proxy is None:
            raise FaultMissed("this run has no proxy between its roles and the broker")
        return self._proxy

    def kill_role(self, role: str) -> None:
        process = self._first(role)
        if process.exit_code is None:
            # Started a moment ago, it may not be at work yet: a kill would show nothing and leave a file missing.
            self._wait_for_history([process])
        process.mortal = True
        process.signal(signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)

    def restart_role(self, role: str) -> None:
        for process in self._of(role):
            if process.exit_code is not None:
                process.start()
        if role == "api":
            self._wait_for_api()

    def pause_role(self, role: str) -> None:
        self._first(role).signal(signal.SIGSTOP)

    def slow_role(self, role: str) -> None:
        self._slowed = Slowed(self._of(role))
        self._slowed.start()

    def resume_role(self, role: str) -> None:
        if self._slowed is not None:
            self._slowed.stop()
            self._slowed = None
        self._first(role).signal(signal.SIGCONT)

    def roll_role(self, role: str) -> None:
        for process in self._of(role):
            process.mortal = True
            process.end()
            process.start()
            self._wait_for_history()

    def publish_poison(self) -> None:
        kind = EVENT_TYPES["OrderCreated"]
        poison = Envelope(
            id=new_event_id(),
            topic=kind.topic,
            type="OrderCreated",
            source=self.database.messaging.source_prefix + kind.aggregate_type,
            key=f"poison-{uuid.uuid4()}",
            sequence=1,
            occurred_at=datetime.now(UTC),
            data=b'{"orderId": 0}',
        )
        with self.database.engine.begin() as connection:
            add_events(connection, self.database.messaging, [poison])
        self._recorder.reach(Step.COMMITTED, [poison.id])

    def publish_again(self, messages: int) -> None:
        tables = self.database.messaging
        sql = (
            f"SELECT {event_as_envelope(tables)} FROM {tables.event.fullname} e"
            f" WHERE NOT EXISTS (SELECT FROM {tables.pending.fullname} p WHERE p.id = e.id)"
            " ORDER BY e.id DESC LIMIT %s"
        )
        with self.database.engine.connect() as connection:
            rows = connection.exec_driver_sql(sql, (messages,)).all()
        publisher = self._broker.publisher()
        try:
            outcomes = publisher.publish([Envelope(*row) for row in reversed(rows)], AGAIN_TIMEOUT_S)
        finally:
            publisher.close()
        if not any(outcome.is_confirmed for outcome in outcomes):
            raise FaultMissed(f"none of {len(rows)} messages was published again")

    def arm_crash(self, role: str, step: str) -> None:
        process = self._first(role)
        process.mortal = True
        process.end()
        process.start(CRASH_AT=f"{step}@{time.time():.3f}")
        if not process.wait(CRASH_TIMEOUT_S):
            process.end()
            raise FaultMissed(f"{process.name} did not reach {step} within {CRASH_TIMEOUT_S:g} s")
        if process.exit_code != -signal.SIGKILL:
            raise RunBroken(
                f"{process.name} ended with {process.exit_code} before its crash point:\n{tail(process.log)}"
            )

    # benchmarks.phases.System

    def start(self) -> None:
        self._create_database()
        self._database = wiring.open_database(self._settings)
        wait_for_database(self._database.engine, READY_S)
        self._database.create()
        seed_catalogue(self._database.engine, self._database.shop, self._scenario.load.products)
        self._connect()
        self._start_roles(self._planned_roles())

    def start_driver(self, plan: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "locustfile.py")]
        command += ["--headless", "-u", "1", "-r", "1", "--only-summary", "--host", self._api_url, "OrderSource"]
        token = wiring.development_token(self._settings, "load-customer", ttl_s=86_400)
        self._start_driver(command, {**plan, "token": token}, {"PYTHONPATH": str(ROOT), **self._environment()})

    def is_driving(self) -> bool:
        return self._driver is not None and self._driver.exit_code is None

    def check_alive(self) -> None:
        for process in self._roles:
            if process.exit_code is not None and not process.mortal:
                raise RunBroken(
                    f"{process.name} ended by itself with {process.exit_code}; its log {process.log.name} ends:\n"
                    f"{tail(process.log)}"
                )
        if self._driver is not None and self._driver.exit_code not in self.DRIVER_EXITS:
            raise RunBroken(f"the load driver ended with {self._driver.exit_code}:\n{tail(self._driver.log)}")

    def restart_missing(self) -> None:
        if self._proxy is not None:
            self._proxy.heal()
        for process in self._roles:
            process.signal(signal.SIGCONT)
            if process.exit_code is not None:
                process.start()
        self._wait_for_api()
        # One that is ended again before it opened its history would leave a file missing.
        self._wait_for_history()

    def stop_consumers(self) -> None:
        for process in self._of(self.CONSUMES):
            process.mortal = True
            process.end()

    def start_consumers(self) -> None:
        for process in self._of(self.CONSUMES):
            process.start()
        self._wait_for_history()

    def backlog(self) -> int | None:
        assert self._database is not None
        try:
            with self._database.engine.connect() as connection:
                owed = measure_depth(connection, self._database.messaging).depth_messages
                parked = connection.execute(text(_HELD_BY_PARKED_KEYS)).scalar_one()
                calls = count_reserved(connection, self._database.shop.outside_calls)
            # A letter that nobody has recorded yet is no loss.
            lags = [lag for group in (*self.groups, DEAD_LETTER_GROUP) for lag in self.lag(group).values()]
        except (SQLAlchemyError, BrokerError):
            return None
        return owed - int(parked) + calls + sum(lag.lag_messages for lag in lags)

    def stop_roles(self) -> None:
        if self._sampler is not None:
            self._sampler.stop()
        if self._driver is not None:
            self._driver.end()
        outside = self._of("outside")
        inside = [process for process in self._roles if process not in outside]
        for process in inside:
            process.mortal = True
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        # Whoever is still calling outside must find it there.
        for process in [*inside, *outside]:
            process.mortal = True
            process.end()

    def export_ledger(self, folder: Path) -> None:
        assert self._database is not None
        by_driver = self._scenario.load.level == "outbox"
        try:
            export_ledger(self._database.engine, folder, wiring.groups(self._settings), by_driver)
        except (SQLAlchemyError, psycopg.Error, OSError) as error:
            raise RunBroken(f"the database's books could not be kept: {error}") from error

    def history_files(self) -> list[str]:
        """Every file there is, and a name that is not there for each process that never opened one."""
        there = sorted(path.name for path in (self._folder / "history").glob("*.ndjson"))
        processes = self._roles + ([self._driver] if self._driver else [])
        absent = [
            f"{process.name}-{pid}-absent.ndjson"
            for process in processes
            for pid in process.pids
            if not any(f"-{pid}-" in name for name in there)
        ]
        return there + absent

    def describe(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        versions = {server.name: server.version for server in self._services.servers}
        clients = ("confluent-kafka", "pika", "aio-pika", "sqlalchemy", "psycopg", "fastapi", "locust")
        return {
            "versions": {**versions, "python": platform.python_version(), **{name: version(name) for name in clients}},
            "machine": {
                "cpus": os.cpu_count(),
                "memory_bytes": memory.total,
                "system": platform.platform(),
                "provider": self._services.provider,
            },
            "settings": wiring.effective_settings(self._settings),
            "equivalents": [row._asdict() for row in equivalents(self._settings)],
            "strategies": {"publish": self._settings.publish_strategy, "consume": self._settings.consume_strategy},
            "seams": {name: self._settings.seam(name) for name in SEAMS},
            "git_revision": git_revision(),
        }

    def close(self) -> None:
        if self._slowed is not None:
            self._slowed.stop()
        if self._sampler is not None:
            self._sampler.stop()
        for process in [*self._roles, *([self._driver] if self._driver else [])]:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)
        if self._admin is not None:
            self._admin.close()
        if self._database is not None:
            self._database.engine.dispose()

    # Inside.

    def parts(self) -> dict[str, list[int]]:
        """Process ids by part, now."""
        parts: dict[str, list[int]] = {
            "broker": self._services.broker.pids(),
            "database": self._services.database.pids(),
            "driver": [self._driver.pid] if self._driver is not None and self.is_driving() else [],
        }
        for process in self._roles:
            parts.setdefault(process.name.partition("-")[0], []).append(process.pid)
        return parts

    @property
    def groups(self) -> Collection[str]:
        return wiring.groups(self._settings)

    @property
    def database(self) -> wiring.Database:
        assert self._database is not None
        return self._database

    @property
    def kept_in(self) -> wiring.Database | None:
        return self._database

    def lag(self, group: str) -> Mapping[str, Lag]:
        assert self._admin is not None
        # An admin is for one thread at a time; the sampler and the drain both ask.
        with self._admin_lock:
            return self._admin.lag(group)

    def _connect(self, shape: Topology | None = None) -> None:
        self._broker = wiring.connect_broker(self._settings, shape)
        self._admin = self._broker.admin()
        self._admin.declare()

    def _planned_roles(self) -> list[RoleProcess]:
        outside = ("outside-world", f"--port={self._outside_port}", f"--record={self._outside_record}")
        return [self._role("outside-world", *outside), self._role("api", "serve"), *self._relays_and_consumers()]

    def _relays_and_consumers(self) -> list[RoleProcess]:
        planned = self._scenario.roles
        relays = planned.relays if wiring.has_relay(self._settings) else 0
        return [
            *(self._role(f"relay-{n}", "relay") for n in range(1, relays + 1)),
            *(self._role(f"consumer-{n}", "consume") for n in range(1, planned.consumers + 1)),
        ]

    def _start_roles(self, roles: Sequence[RoleProcess]) -> None:
        """Returns when all are at work; from then on they are sampled."""
        self._roles = list(roles)
        for process in self._roles:
            process.start()
        self._wait_for_api()
        self._wait_for_history()
        self._sampler = Sampler(self, self._recorder)
        self._sampler.start()

    def _start_driver(self, command: list[str], plan: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        log = self._folder / "logs" / "driver.log"
        self._driver = RoleProcess("driver", command, log, {"LOAD_PLAN": json.dumps(plan), **environment})
        # `check_alive` knows how it may end.
        self._driver.mortal = True
        self._driver.start()

    @property
    def _api_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _addresses(self) -> dict[str, str]:
        found = {name.lower(): url for name, url in self._services.environment.items()}
        base, _, _ = found["database_url"].rpartition("/")
        found["database_url"] = f"{base}/{self._database_name}"
        found["outside_world_url"] = f"http://127.0.0.1:{self._outside_port}"
        return found

    def _through_proxy(self) -> Settings:
        """The settings of the roles: the broker's address is the proxy's, if there is one."""
        if self._proxy is None:
            return self._settings
        name = "kafka_bootstrap_servers" if self._settings.broker == "kafka" else "rabbitmq_url"
        address = getattr(self._settings, name)
        behind = str(address).rpartition("@")[2].partition("/")[0]
        return self._settings.model_copy(update={name: address.replace(behind, f"127.0.0.1:{self._proxy.port}")})

    def _create_database(self) -> None:
        engine = create_database_engine(self._services.database.url)
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f'CREATE DATABASE "{self._database_name}"'))
        finally:
            engine.dispose()

    def _environment(self) -> dict[str, str]:
        mine = identify(os.getpid())
        assert mine is not None
        return {
            OWNER: str(self._folder),
            PARENT: f"{mine.pid}:{mine.start_ticks}:{mine.boot_id}",
            "HISTORY_DIR": str(self._folder / "history"),
        }

    def _role(self, name: str, *words: str) -> RoleProcess:
        return self._process(name, "testbed.cli", *words)

    def _process(self, name: str, module: str, *words: str) -> RoleProcess:
        log = self._folder / "logs" / f"{name}.log"
        return RoleProcess(name, [sys.executable, "-m", module, *words], log, self._role_environment())

    def _role_environment(self) -> dict[str, str]:
        addresses = wiring.as_environment(self._through_proxy())
        return {**addresses, **self._environment(), "API_PORT": str(self._port)}

    def _of(self, role: str) -> list[RoleProcess]:
        return [process for process in self._roles if process.name.partition("-")[0] == role]

    def _first(self, role: str) -> RoleProcess:
        found = self._of(role)
        if not found:
            raise FaultMissed(f"this run has no {role} process")
        return found[0]

    def _wait_for_history(self, processes: Sequence[RoleProcess] = ()) -> None:
        """These (none: all) have opened their history: from here on they can be asked to stop in good order."""

        def all_open() -> bool:
            self.check_alive()
            names = [path.name for path in (self._folder / "history").glob("*.ndjson")]
            return all(any(f"-{each.pid}-" in name for name in names) for each in processes or self._roles)

        if not wait_until(all_open, READY_S):
            raise RunBroken(f"a role did not begin to work within {READY_S:g} s; see logs/")

    def _wait_for_api(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self.check_alive()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self._api_url}/health/ready", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise RunBroken(f"the API was not ready within {READY_S:g} s; its log ends:\n{tail(self._of('api')[0].log)}")


_HELD_BY_PARKED_KEYS = "SELECT count(*) FROM pending WHERE key IN (SELECT key FROM pending WHERE parked_at IS NOT NULL)"
