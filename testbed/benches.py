"""`testbed bench PART`: one part of ours beside its baseline, in alternating rounds of one process run."""

import dataclasses
import json
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer
from rich.console import Console
from sqlalchemy import Engine, MetaData

import brokers.kafka
import brokers.rabbitmq
from benchmarks.parts import adapter, api, history, inbox, proxy, relay, relay_cases
from benchmarks.parts.rounds import print_table
from brokers.kafka import baseline as bare_kafka
from brokers.rabbitmq import baseline as bare_rabbit
from core.journey import Probe
from core.messaging.ports import Broker, Publisher
from core.messaging.topology import Route, Topology
from core.storage.database import create_database_engine
from core.storage.schema import create_schema
from core.storage.tables import MessagingTables, messaging_tables
from servers import maven
from servers.lifecycle import Server, ServerFailed
from servers.process import free_ports, tail, wait_until
from testbed import doctor, services, wiring
from testbed.equivalence import kafka_config, rabbit_config
from testbed.folders import cache_folder
from testbed.revision import git_revision
from testbed.role_process import ROOT, RoleProcess
from testbed.settings import SettingError, Settings, read_settings

KAFKA_TOOLS = "org.apache.kafka:kafka-tools:4.3.1+org.apache.kafka:kafka-clients:4.3.1"
PERF_TEST = "com.rabbitmq:perf-test:2.22.1"
VENDOR_MESSAGES = 100_000
WINDOW_MESSAGES = 5_000
"""Handed over before waiting for the confirms, on both sides of Kafka; RabbitMQ's window is the adapter's setting."""
Part = Literal["adapter", "relay", "inbox", "api", "history", "proxy"]
ROUNDS = 5


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    part: Annotated[Part, typer.Argument(help="adapter, relay, inbox, api, history or proxy.")],
    broker: Annotated[str, typer.Option(help="kafka or rabbitmq; BROKER where not given. proxy: none.")] = "",
    size: Annotated[
        int,
        typer.Option(
            help="Bytes of a message; adapter: 512 and 4096 where not given. "
            f"proxy: of a send, {proxy.SEND_BYTES:,} where not given."
        ),
    ] = 0,
    rounds: Annotated[
        int | None, typer.Option(min=3, help=f"Rounds a side; {ROUNDS} where not given, history {history.ROUNDS}.")
    ] = None,
    cases: Annotated[
        str, typer.Option(help="relay: `all`, or some of " + ", ".join(f"`{name}`" for name in relay_cases.NAMES) + ".")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Measure one part against its baseline, on a broker of its own, in alternating rounds.

    history: relay and inbox with a recorder, as in a run, beside the same without one; rates in messages/s.
    proxy: the proxy of the network's faults while it has none, beside the same sockets without it; needs no broker, and
    its rates, `rate_per_s` too, are MB/s (1,000,000 bytes).

    Examples: `testbed bench adapter --broker kafka --size 512` · `testbed bench relay --broker rabbitmq --json` ·
    `testbed bench relay --broker kafka --cases 10-keys,one-key-30%` · `testbed bench proxy`
    """
    named = _named(part, cases)
    _sized(part, size)
    rounds = rounds or (history.ROUNDS if part == "history" else ROUNDS)
    document = _proxy(broker, size, rounds) if part == "proxy" else _on_a_broker(part, broker, size, rounds, named)
    document["git_revision"] = git_revision()
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        print_table(document, Console())
        if "memory" in document:
            typer.echo("memory before a stopped consumer: " + json.dumps(document["memory"]))


def _proxy(broker: str, size: int, rounds: int) -> dict[str, Any]:
    if broker:
        raise SettingError(f"--broker {broker}: `bench proxy` has no broker; leave it out")
    with services.ended_by_sigterm():
        rows = _told(proxy.run(rounds=rounds, send_bytes=size or proxy.SEND_BYTES), f" {proxy.UNIT}/s")
    return {"bench": "proxy", "broker": "none", "profile": "loopback", "unit": proxy.UNIT, "results": rows}


def _on_a_broker(part: Part, broker: str, size: int, rounds: int, cases: Sequence[str]) -> dict[str, Any]:
    overrides = {"broker": broker} if broker else {}
    settings = read_settings(**overrides)
    if settings.broker == "memory":
        raise SettingError("BROKER=memory: a bench needs a real broker; use kafka or rabbitmq")
    doctor.require(["postgres", settings.broker])
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as home:
        # PostgreSQL runs as a user of its own when root starts it, and has to pass through.
        Path(home).chmod(0o755)
        with services.ended_by_sigterm(), services.start([settings.broker], Path(home)) as running:
            return _measure(part, settings, running, size, rounds, cases)


def _named(part: Part, cases: str) -> Sequence[str]:
    names = relay_cases.NAMES if cases == "all" else [name for name in cases.split(",") if name]
    if names and part != "relay":
        raise SettingError(f"--cases {cases}: only `bench relay` has cases")
    if unknown := set(names) - set(relay_cases.NAMES):
        raise SettingError(f"--cases {', '.join(sorted(unknown))}: allowed are all, {', '.join(relay_cases.NAMES)}")
    return names


def _sized(part: Part, size: int) -> None:
    if size and part in ("inbox", "api", "history"):
        raise SettingError(f"--size {size}: `bench {part}` has messages of its own; leave it out")


def _measure(
    part: Part, settings: Settings, running: services.Services, size: int, rounds: int, cases: Sequence[str]
) -> dict[str, Any]:
    addresses = {name.lower(): url for name, url in running.environment.items()}
    settings = settings.model_copy(update=addresses)
    connect = _connector(settings)
    if part == "adapter":
        return _adapter(settings, running.broker, connect, size, rounds)
    if part == "api":
        return _api(settings, rounds)
    engine = create_database_engine(settings.database_url)
    try:
        profile = connect(adapter.TOPOLOGY).capabilities.profile
        if part == "inbox":
            rows = _told(inbox.run(connect, engine, rounds=rounds))
        elif part == "history":
            rows = _history(settings, engine, connect, rounds)
        else:
            rows = _relay(settings, engine, size, rounds, cases)
    finally:
        engine.dispose()
    return {"bench": part, "broker": settings.broker, "profile": profile, "results": rows}


def _told(rows: Iterator[dict[str, Any]], per_s: str = "/s") -> list[dict[str, Any]]:
    """All of them, each also told as it comes: a bench takes minutes."""
    known = []
    for row in rows:
        rates = f"{row['rate_per_s']:,.0f}{per_s}, {row['ratio']:.2f} × {row['baseline']}"
        typer.echo(f"{row['name']}: {rates} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]", err=True)
        known.append(row)
    return known


def _relay(settings: Settings, engine: Engine, size: int, rounds: int, cases: Sequence[str]) -> list[dict[str, Any]]:
    """Against the naive relay; with cases, those beside the plain one."""
    one = _declared(settings, relay_cases.ONE_GROUP, 1)
    if cases:
        five = _declared(settings, relay_cases.FIVE_GROUPS, 5)
        publishers = {relay_cases.ONE_GROUP: one, relay_cases.FIVE_GROUPS: five}
        return _told(relay_cases.run(engine, publishers, names=cases, size_bytes=size or 400, rounds=rounds))
    return _told(relay.run(engine, _outbox(engine), one, rounds=rounds, size_bytes=size or 400))


def _history(
    settings: Settings, engine: Engine, connect: Callable[[Topology], Broker], rounds: int
) -> list[dict[str, Any]]:
    watch, one = partial(watched, settings), _declared(settings, relay_cases.ONE_GROUP, 1)
    return _told(history.run(watch, engine, _outbox(engine), one, connect, rounds=rounds))


@contextmanager
def watched(settings: Settings, role: str, history_folder: Path | None) -> Iterator[Probe]:
    """What a process of that role reports to in a run; without a folder it keeps no history, whatever is set."""
    watch = wiring.open_watch(settings.model_copy(update={"history_dir": str(history_folder or "")}), role)
    try:
        yield watch.probe
    finally:
        watch.close()


def _outbox(engine: Engine) -> MessagingTables:
    metadata = MetaData()
    tables = messaging_tables(metadata)
    create_schema(engine, metadata, tables)
    return tables


def _declared(settings: Settings, name: str, groups: int) -> relay_cases.MakesPublisher:
    """Publishers to topics, declared here, that so many groups read."""
    topology = Topology(
        {"OrderCreated": Route("orders", "order.created")},
        {f"bench-{number}": frozenset({"OrderCreated"}) for number in range(groups)},
        6,
        audit=groups > 1,
        prefix=f"{name}.",
    )
    _connector(settings)(topology).admin().declare()
    return partial(_publisher, settings, topology)


def _publisher(settings: Settings, topology: Topology) -> Publisher:
    """At module level: a relay in a process of its own makes its publisher there."""
    return _connector(settings)(topology).publisher()


def _api(settings: Settings, rounds: int) -> dict[str, Any]:
    """Both servers up, one under load at a time; the broker stands by, as the outbox has it."""
    wiring.prepare(settings, 100)
    ports = free_ports(2)
    environment = {"PYTHONPATH": str(ROOT), "API_PORT": str(ports[0]), **wiring.as_environment(settings)}
    with tempfile.TemporaryDirectory(prefix="testbed-bench-api-") as logs:
        ours = RoleProcess("ours", [sys.executable, "-m", "testbed.cli", "serve"], Path(logs) / "ours", environment)
        command = [sys.executable, "-m", "benchmarks.parts.bare_api", settings.database_url, str(ports[1])]
        bare = RoleProcess("bare", command, Path(logs) / "bare", {"PYTHONPATH": str(ROOT)})
        try:
            for server, port in zip((ours, bare), ports, strict=True):
                server.start()
                if not wait_until(lambda port=port: is_listening(port), 60):  # type: ignore[misc]
                    raise ServerFailed(f"the {server.name} server did not listen:\n{tail(server.log)}")
            token = wiring.development_token(settings, "bench-customer", ttl_s=86_400)
            addresses = [("127.0.0.1", port) for port in ports]
            rows = api.run(addresses[0], addresses[1], [("Authorization", f"Bearer {token}")], rounds=rounds)
        finally:
            for server in (ours, bare):
                server.end()
    return {"bench": "api", "broker": settings.broker, "profile": settings.broker, "results": rows}


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _connector(settings: Settings) -> Callable[[Topology], Broker]:
    if settings.broker == "kafka":
        return lambda topology: brokers.kafka.connect(kafka_config(settings), topology)
    return lambda topology: brokers.rabbitmq.connect(rabbit_config(settings), topology)


def _adapter(
    settings: Settings, server: Server, connect: Callable[[Topology], Broker], size: int, rounds: int
) -> dict[str, Any]:
    topology = dataclasses.replace(adapter.TOPOLOGY, prefix=f"bench-{uuid4().hex[:8]}.")
    broker = connect(topology)
    admin = broker.admin()
    admin.declare()
    bare = (_bare_kafka if settings.broker == "kafka" else _bare_rabbit)(settings, topology)
    sizes_bytes = [size] if size else adapter.SIZES_BYTES
    rows = _told(adapter.run(broker, bare, sizes_bytes=sizes_bytes, batch_messages=WINDOW_MESSAGES, rounds=rounds))
    memory = adapter.stopped_consumer(connect(dataclasses.replace(topology, prefix=f"bench-{uuid4().hex[:8]}.")))
    return adapter.document(settings.broker, broker.capabilities.profile, rows, memory)


def _received(
    subscribe: Callable[[], bare_kafka.BareSubscriber | bare_rabbit.BareSubscriber | bare_rabbit.BareAioSubscriber],
) -> Callable[[int, int], float]:
    """`adapter.Bare.receive`."""

    def receive(uncounted: int, counted: int) -> float:
        with closing(subscribe()) as subscriber:
            subscriber.receive_round(uncounted)
            return subscriber.receive_round(counted)

    return receive


def _bare_kafka(settings: Settings, topology: Topology) -> adapter.Bare:
    config, topic = kafka_config(settings), topology.prefix + adapter.BARE
    publisher = bare_kafka.BarePublisher(config)
    tools = maven.jars(cache_folder(), "kafka-tools-4.3.1", KAFKA_TOOLS)

    return adapter.Bare(
        "confluent-kafka",
        lambda bodies, keys: publisher.publish_round(topic, topology.partitions, bodies, keys, WINDOW_MESSAGES),
        _received(lambda: bare_kafka.BareSubscriber(config, topic, f"{topic}.group")),
        publisher.close,
        lambda size_bytes: bare_kafka.vendor_publish_per_s(
            config, topic, f"{tools}/*", VENDOR_MESSAGES, size_bytes, maven.java()
        ),
    )


def _bare_rabbit(settings: Settings, topology: Topology) -> adapter.Bare:
    config, exchange = rabbit_config(settings), topology.prefix + adapter.BARE
    queues = [f"{adapter.BARE}.{exchange}.{lane}" for lane in range(topology.partitions)]
    publisher = bare_rabbit.bare_publisher(config)
    tools = maven.jars(cache_folder(), "perf-test-2.22.1", PERF_TEST)
    window = config.publish_window_messages

    def vendor(size_bytes: int, receive: bool) -> float:
        return bare_rabbit.vendor_per_s(
            config, f"bench-vendor-{size_bytes}", f"{tools}/*", VENDOR_MESSAGES, size_bytes, window, receive
        )

    return adapter.Bare(
        f"bare {config.client}",
        lambda bodies, keys: publisher.publish_round(
            exchange, adapter.EVENT_KEY[adapter.BARE], topology.partitions, bodies, keys, window
        ),
        _received(lambda: bare_rabbit.bare_subscriber(config, queues, 2_000)),
        publisher.close,
        lambda size_bytes: vendor(size_bytes, False),
        lambda size_bytes: vendor(size_bytes, True),
    )
