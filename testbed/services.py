"""Real services for a run, a test or a person: chosen by provider, started together, found again, stopped together.

`start(...)` is for code (they end with the block); `testbed up` leaves them running for other shells, until `down`.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import typer

from brokers.kafka import server as kafka
from brokers.rabbitmq import server as rabbitmq
from faults.catalogue import FAULTS as CATALOGUE
from servers import container, postgres
from servers.cache import locked
from servers.lifecycle import HasAlarms, NotControlled, Server, ServerFailed, stop_to_start_again
from servers.process import ProcessServer, end_orphans, write_atomically
from testbed import doctor
from testbed.folders import cache_folder, rabbitmq_home, state_folder

BROKERS = ("kafka", "rabbitmq")
PROVIDERS = ("native", "docker", "external")
Provider = Literal["auto", "native", "docker", "external"]
FAULTS = ("sigkill", "restart", "pause", "resume", "memory-alarm", "disk-alarm", "database-restart")
"""Those of the catalogue that need nothing but what `up` started, and the end of `pause`."""
URL_SETTINGS = {"postgres": "DATABASE_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS", "rabbitmq": "RABBITMQ_URL"}
MANAGEMENT_SETTING = "RABBITMQ_MANAGEMENT_URL"
COMPOSE_FILE = Path(__file__).parent.parent / "docker-compose.yml"
KEPT = "testbed.json"
"""In a state folder: written last by `up`; says which services are there. Without it they belong to a process."""


@dataclass(frozen=True)
class Services:
    """One database and one or two brokers. As a context manager it stops them at the end."""

    database: Server
    brokers: Mapping[str, Server]
    provider: str

    @property
    def broker(self) -> Server:
        """The only broker; with two, ask `brokers` by name."""
        (only,) = self.brokers.values()
        return only

    @property
    def servers(self) -> tuple[Server, ...]:
        return (self.database, *self.brokers.values())

    @property
    def environment(self) -> dict[str, str]:
        """The settings a client needs, by their names in the environment."""
        found = {URL_SETTINGS[server.name]: server.url for server in self.servers}
        management_url = management_url_of(self.brokers["rabbitmq"]) if "rabbitmq" in self.brokers else ""
        return found | ({MANAGEMENT_SETTING: management_url} if management_url else {})

    def start(self) -> None:
        """Start what is not running; on failure or Ctrl-C stop all of it."""
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all, also when one of them cannot be stopped; then raise that."""
        with contextlib.ExitStack() as all_of_them:
            for server in self.servers:
                all_of_them.callback(server.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def management_url_of(rabbit: Server) -> str:
    """RabbitMQ's management API with the login of its AMQP address; empty where nobody has named it."""
    if isinstance(rabbit, container.External):
        return os.environ.get(MANAGEMENT_SETTING, "")
    if isinstance(rabbit, container.Container):
        port = rabbit.ports["RABBITMQ_MANAGEMENT_PORT"]
    else:
        assert isinstance(rabbit, rabbitmq.RabbitMQ)
        port = rabbit.ports["management"]
    login = urlsplit(rabbit.url).netloc.rpartition("@")[0]
    return urlunsplit(("http", f"{login}@127.0.0.1:{port}", "", "", ""))


def start(brokers: Iterable[str], folder: Path, provider: str = "auto", **options: Mapping[str, Any]) -> Services:
    """Start the database and these brokers in `folder`; what dead testbeds left behind is ended first.

    `options` are keyword arguments of one service: `kafka={"broker_session_timeout_ms": 2_000}`.
    Raises ServerFailed, with nothing left running.
    """
    end_orphans(is_kept)
    services = build(brokers, folder, provider, **options)
    _require(services)
    services.start()
    return services


def _require(services: Services) -> None:
    if services.provider == "native":
        doctor.require(server.name for server in services.servers)


def is_kept(service_folder: Path) -> bool:
    """Whether `testbed up` finished with this service and left it running on purpose."""
    return (service_folder.parent / KEPT).exists()


def build(brokers: Iterable[str], folder: Path, provider: str = "auto", **options: Mapping[str, Any]) -> Services:
    """The services of a folder, started or not; starts nothing. Raises ServerFailed for what the machine lacks."""
    wanted = [name for name in BROKERS if name in set(brokers)]
    unknown = set(brokers) - set(BROKERS)
    if unknown:
        raise ServerFailed(f"no broker {', '.join(sorted(unknown))}: use {', '.join(BROKERS)}")
    chosen = choose_provider(wanted) if provider == "auto" else provider
    make = {"native": _native, "docker": _docker, "external": _external}.get(chosen)
    if make is None:
        raise ServerFailed(f"no provider {chosen!r}: use auto, {', '.join(PROVIDERS)}")
    if chosen != "native" and options:
        raise ServerFailed(f"provider {chosen} cannot set {', '.join(options)}: use --provider native")
    made = {name: make(name, folder / name, options.get(name, {})) for name in ("postgres", *wanted)}
    return Services(made.pop("postgres"), made, chosen)


def choose_provider(brokers: Sequence[str]) -> str:
    """Native where this machine can run it, else Docker if an engine answers. Raises ServerFailed with the mend."""
    if sys.platform == "linux" and not doctor.lacks(("postgres", *brokers)):
        return "native"
    if container.engine_answers():
        return "docker"
    if sys.platform != "linux":
        raise ServerFailed("native services need Linux: start a Docker engine, or use --provider external")
    doctor.require(("postgres", *brokers))
    return "native"


def fetch(brokers: Iterable[str] = BROKERS) -> None:
    """Fetch what native services need into the cache folder; does nothing where it is there."""
    if "kafka" in brokers:
        kafka.fetch(cache_folder())
    if "rabbitmq" in brokers:
        rabbitmq.fetch(cache_folder(), rabbitmq_home())


def _native(name: str, folder: Path, options: Mapping[str, Any]) -> Server:
    if name == "postgres":
        return postgres.Postgres(folder, **options)
    if name == "kafka":
        return kafka.Kafka(folder, cache_folder(), **options)
    return rabbitmq.RabbitMQ(folder, cache_folder(), rabbitmq_home(), **options)


SERVERS: Mapping[str, type[ProcessServer]] = {"kafka": kafka.Kafka, "rabbitmq": rabbitmq.RabbitMQ}


def lacks(broker: str) -> frozenset[str]:
    """Capabilities that some fault needs and this broker has not."""
    return frozenset() if issubclass(SERVERS[broker], HasAlarms) else frozenset({"alarms"})


def port_behind_proxy(server: Server) -> int:
    """Where a proxy hands on what its clients say. Kafka has a listener of its own for them."""
    if isinstance(server, ProcessServer):
        return server.ports["proxied" if "proxied" in server.port_names else "port"]
    return urlsplit(server.url).port or 5672


PROBES: Mapping[str, container.Probe] = {
    "postgres": postgres.query_one,
    "kafka": kafka.publish_one,
    "rabbitmq": rabbitmq.publish_one,
}
CONTAINERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "postgres": ("postgresql+psycopg://postgres:{password}@127.0.0.1:{POSTGRES_PORT}/testbed", ("POSTGRES_PORT",)),
    "kafka": ("127.0.0.1:{KAFKA_PORT}", ("KAFKA_PORT",)),
    "rabbitmq": (
        "amqp://testbed:{password}@127.0.0.1:{RABBITMQ_PORT}/%2F",
        ("RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT"),
    ),
}


def _docker(name: str, folder: Path, _options: Mapping[str, Any]) -> Server:
    if not container.engine_answers():
        raise ServerFailed("no Docker engine answers: start it, or use --provider native or external")
    url, port_names = CONTAINERS[name]
    return container.Container(name, folder, COMPOSE_FILE, url, port_names, PROBES[name])


def _external(name: str, folder: Path, _options: Mapping[str, Any]) -> Server:
    setting = URL_SETTINGS[name]
    url = os.environ.get(setting)
    if not url:
        raise ServerFailed(f"provider external needs {setting} in the environment")
    return container.External(name, folder, url, PROBES[name])


# What another shell sees.


def attach(folder: Path) -> Services | None:
    """What `up` left running in this folder; None if there is nothing."""
    kept = folder / KEPT
    if not kept.exists():
        return None
    said = json.loads(kept.read_text())
    return build(said["brokers"], folder, said["provider"])


def up(brokers: Sequence[str], folder: Path, provider: str) -> Services:
    """Start services and leave them running. Doing it again starts what died and adds what is asked for now."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / ".lock"):
        before = attach(folder)
        if before and provider not in ("auto", before.provider):
            raise ServerFailed(f"services of provider {before.provider} are up in {folder}; run `testbed down` first")
        end_orphans(is_kept)
        names = [*before.brokers, *brokers] if before else brokers
        services = build(names, folder, before.provider if before else provider)
        _require(services)
        services.start()
        kept = {"provider": services.provider, "brokers": list(services.brokers)}
        write_atomically(folder / KEPT, json.dumps(kept))
    return services


def down(folder: Path) -> bool:
    """Stop what `up` started in this folder, data kept, and what a killed run left; False if nothing was up."""
    if not folder.exists():
        return bool(end_orphans(is_kept))
    with locked(folder / ".lock"):
        services = attach(folder)
        if services is None:
            return bool(end_orphans(is_kept))
        services.stop()
        (folder / KEPT).unlink()
    return True


def status(services: Services) -> list[dict[str, object]]:
    """One row a service: name, provider, version, url (with its password), pid, running, ready."""
    return [_status(server, services.provider) for server in services.servers]


def _status(server: Server, provider: str) -> dict[str, object]:
    running = server.is_running()
    ready = running
    if running:
        try:
            server.wait_ready(3.0)
        except ServerFailed:
            ready = False
    pids = server.pids() if running else []
    return {
        "name": server.name,
        "provider": provider,
        "version": server.version,
        "url": server.url,
        "pid": pids[0] if pids else None,
        "running": running,
        "ready": ready,
    }


def without_password(url: str) -> str:
    """The address as people may see it."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if "//" in url and parts.password else url


def inject(fault: str, server: Server, for_s: float | None) -> None:
    """Do one process fault to one service. With `for_s` it is healed after so long; `restart` waits between the two."""
    if fault == "resume":
        return server.resume()
    if fault == "database-restart":
        return inject("sigkill", server, for_s or 0.0)
    if fault == "restart":
        stop_to_start_again(server)
        _last(for_s or 0.0)
        return server.start()
    if fault in ("memory-alarm", "disk-alarm"):
        return _alarm(fault, server, 5.0 if for_s is None else for_s)
    (server.kill if fault == "sigkill" else server.pause)()
    if for_s is None:
        return None
    try:
        _last(for_s)
    finally:
        (server.start if fault == "sigkill" else server.resume)()
    return None


def _alarm(fault: str, server: Server, for_s: float) -> None:
    if not isinstance(server, HasAlarms):
        raise NotControlled(server.name, f"ring the {fault} of")
    ring = server.memory_alarm if fault == "memory-alarm" else server.disk_alarm
    try:
        ring(True)
        _last(for_s)
    finally:
        ring(False)


def _last(duration_s: float) -> None:
    """Let a fault last: the one place where time itself is what is waited for."""
    time.sleep(duration_s)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that what was started is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Commands.

State = Annotated[Path | None, typer.Option("--state", help="Folder of this testbed. Default: TESTBED_STATE.")]
CouldNot = typer.Exit(2)


def brokers_named(broker: str) -> tuple[str, ...]:
    if broker not in (*BROKERS, "both"):
        raise ServerFailed(f"--broker {broker}: use kafka, rabbitmq or both")
    return BROKERS if broker == "both" else (broker,)


def seconds(text: str) -> float:
    """`5s`, `200ms`, `1m` or plain seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit) if unit else text) * factor
            except ValueError:
                break
            if 0 <= value <= 3600:
                return value
            break
    raise ServerFailed(f"{text!r} is no time between 0 and 1 h: write 5s, 200ms or 1m")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """One clear line and exit code 2 for what could not be done; 130 for Ctrl-C, by typer."""
    try:
        yield
    except (ServerFailed, OSError) as error:
        typer.echo(f"testbed: {error}", err=True)
        raise CouldNot from error


def register(app: typer.Typer) -> None:
    """Add `up`, `status`, `down`, `chaos` and the hidden `fetch`."""

    @app.command(
        "up",
        help="Start real services and leave them running.\n\n  testbed up --broker both\n\n"
        '  eval "$(testbed up --broker kafka --env)"',
    )
    def _up(
        broker: Annotated[str, typer.Option(help="kafka, rabbitmq or both")] = "both",
        provider: Annotated[str, typer.Option(help="auto, native, docker or external")] = "auto",
        state: State = None,
        env: Annotated[bool, typer.Option("--env", help="Print only the export lines.")] = False,
        nodes: Annotated[int, typer.Option(help="Brokers in the cluster; only 1 for now.")] = 1,
    ) -> None:
        with _told(), ended_by_sigterm():
            if nodes != 1:
                raise ServerFailed(f"--nodes {nodes} is not there yet: use 1")
            services = up(brokers_named(broker), state or state_folder(), provider)
            if not env:
                _print_table(status(services))
                typer.echo()
            for setting, url in services.environment.items():
                typer.echo(f"export {setting}='{url}'")

    @app.command("status", help="Show the services that `up` started.\n\n  testbed status --json")
    def _status_command(
        json_: Annotated[bool, typer.Option("--json", help="For programs; with passwords.")] = False,
        state: State = None,
    ) -> None:
        with _told():
            services = attach(state or state_folder())
            rows = status(services) if services else []
            if json_:
                typer.echo(json.dumps({"services": rows}, indent=1))
            else:
                _print_table(rows)
        if not rows or not all(row["ready"] for row in rows):
            raise CouldNot

    @app.command("down", help="Stop the services that `up` started; their data is kept.\n\n  testbed down")
    def _down(state: State = None) -> None:
        with _told():
            stopped = down(state or state_folder())
            typer.echo("stopped" if stopped else "nothing was up")

    @app.command(
        "chaos",
        help="Break a service that `up` started.\n\n  testbed chaos sigkill --broker kafka --for 5s\n\n"
        "  testbed chaos pause --broker rabbitmq && testbed chaos resume --broker rabbitmq\n\n"
        f"Faults: {', '.join(FAULTS)}. Without --for, sigkill and pause last until `up` and resume.",
    )
    def _chaos(
        fault: str,
        broker: Annotated[
            str | None, typer.Option(help="kafka or rabbitmq (or postgres); needed if both are up")
        ] = None,
        for_: Annotated[str | None, typer.Option("--for", help="Heal after this time, e.g. 5s.")] = None,
        state: State = None,
    ) -> None:
        with _told(), ended_by_sigterm():
            if fault not in FAULTS:
                raise ServerFailed(f"{_not_by_hand(fault)}: use {', '.join(FAULTS)}")
            server = _target(attach(state or state_folder()), "postgres" if fault == "database-restart" else broker)
            inject(fault, server, seconds(for_) if for_ else None)
            typer.echo(f"{fault}: {server.name}")

    @app.command("fetch", hidden=True, help="Fetch the services into the cache folder.")
    def _fetch() -> None:
        with _told():
            if choose_provider(BROKERS) == "native":
                fetch()


def _not_by_hand(fault: str) -> str:
    found = CATALOGUE.get(fault)
    if found is None:
        return f"no fault {fault!r}"
    if found.target == "network":
        return f"{fault} needs a proxy before the broker, which only `testbed run --set faults={fault}` puts there"
    return f"{fault} breaks a role, which `up` does not start; `testbed run --set faults={fault}` does"


def _target(services: Services | None, broker: str | None) -> Server:
    if services is None:
        raise ServerFailed("nothing is up; run `testbed up`")
    found = {server.name: server for server in services.servers}
    if broker is None and len(services.brokers) == 1:
        return services.broker
    if broker not in found:
        raise ServerFailed(f"--broker {broker}: up are {', '.join(found)}")
    return found[broker]


def _print_table(rows: Sequence[Mapping[str, object]]) -> None:
    if not rows:
        typer.echo("nothing is up; run `testbed up`")
    for row in rows:
        state = "ready" if row["ready"] else "not ready" if row["running"] else "not running"
        address = without_password(str(row["url"]))
        process = f"pid {row['pid'] or '-'}"
        typer.echo(f"{row['name']:<9} {state:<11} {row['provider']:<8} {row['version']:<8} {process:<12} {address}")


if __name__ == "__main__":
    main = typer.Typer(add_completion=False, no_args_is_help=True)
    register(main)
    main()
