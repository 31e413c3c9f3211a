"""Put the parts together: the only place that names adapters and ablations, and turns settings into objects.
What only one role or one broker needs is imported where it is used: each role is a process, and starts often.

Not here: reading the environment (`settings`), running processes (`roles`, `lab`).
"""

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group as Stacked
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine, MetaData, make_url

from ablations.consume import Consume, worker_class
from ablations.flow import FLOWS
from ablations.metrics import METRICS, METRICS_CACHE
from ablations.on_error.unmade_calls import taken_as_made
from ablations.pool import pooled
from ablations.publish import SINKS
from ablations.relay import STRATEGIES as RELAYS
from ablations.relay import MakesRelay, Runs, Seams, relay_factory
from ablations.relay.polling import NAIVE
from ablations.saga import SAGAS
from core.commands.catalogue import seed_catalogue
from core.commands.context import Context
from core.commands.orders import create_order
from core.commands.requests import delete_old_answers
from core.domain.events import EVENT_TYPES
from core.effects.order_saga import move_on_overdue, run_sagas
from core.effects.table import Group, topology
from core.inbox.claims import delete_old_claims
from core.inbox.dead_letters import GroupSetup
from core.inbox.handlers import Decode, known_types
from core.inbox.outside import OutsideCaller
from core.inbox.retries import PRESETS
from core.inbox.worker import Worker, WorkerOptions
from core.journey import NoProbe, Probe
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker, Delivery, Subscriber
from core.messaging.topology import Topology
from core.outbox.doorbell import Doorbell
from core.outbox.relay import RelayOptions
from core.outbox.retention import delete_old_batches
from core.outbox.rows import EventSink, OutboxSink
from core.storage.cleaning import Cleaning
from core.storage.database import create_database_engine, lacks_table, wait_for_database
from core.storage.metrics_cache import MetricsCache
from core.storage.schema import create_schema
from core.storage.shop import ShopTables, shop_tables
from core.storage.tables import MessagingTables, messaging_tables
from faults.crash import CrashProbe, parse_crash_point
from history.recorder import HistoryNotKept, Recorder
from testbed.equivalence import broker_settings, equivalents, kafka_config, rabbit_config
from testbed.settings import SettingError, Settings, read_settings

if TYPE_CHECKING:
    from core.api.admin import Operations
    from core.api.app import Deps
    from core.api.tokens import TokenSettings
    from core.effects.outside_world import OutsideWorld
    from testbed.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_AFTER_S = 10.0
"""After which a caller to the outside world that did not settle is believed dead."""


@dataclass(frozen=True)
class Database:
    engine: Engine
    metadata: MetaData
    messaging: MessagingTables
    shop: ShopTables

    def create(self) -> None:
        create_schema(self.engine, self.metadata, self.messaging)


def open_database(settings: Settings, pool_connections: int = 10) -> Database:
    metadata = MetaData()
    engine = create_database_engine(settings.database_url, pool_connections=pool_connections)
    return Database(engine, metadata, messaging_tables(metadata), shop_tables(metadata))


def groups(settings: Settings) -> Mapping[str, Group]:
    """Every consumer group there is: seams `flow` and `metrics`, and of the groups those that GROUPS names."""
    chosen = dict(FLOWS[settings.seam("flow")])
    wanted = settings.groups.split(",") if settings.groups else list(chosen)
    for name in wanted:
        if not any(name in flow for flow in FLOWS.values()):
            raise SettingError(f"GROUPS={settings.groups}: no group {name!r}; use some of {', '.join(chosen)}")
    chosen = {name: group for name, group in chosen.items() if name in wanted}
    if settings.seam("metrics") != "atomic" and "product-metrics" in chosen:
        handler = METRICS[settings.seam("metrics")]
        chosen["product-metrics"] = replace(chosen["product-metrics"], handler=handler)
    if "order-saga" in chosen:
        saga = chosen["order-saga"]
        chosen["order-saga"] = replace(
            saga,
            handler=partial(run_sagas, deadline_s=settings.saga_deadline_s),
            sweep=partial(move_on_overdue, deadline_s=settings.saga_deadline_s),
        )
    return chosen


def connect_broker(settings: Settings, shape: Topology | None = None) -> Broker:
    """The adapter that BROKER names, for the shop's topology or another, and no other's modules. Nothing connects."""
    shape = shape or topology(settings.partitions, settings.topic_prefix, settings.audit, groups(settings))
    try:
        match settings.broker:
            case "kafka":
                from brokers import kafka

                return kafka.connect(kafka_config(settings), shape)
            case "rabbitmq":
                from brokers import rabbitmq

                return rabbitmq.connect(rabbit_config(settings), shape)
            case "memory":
                from brokers import memory

                return memory.connect(memory.MemoryConfig(), shape)
    except ValueError as error:
        raise SettingError(str(error)) from error


def prepare(settings: Settings, products: int) -> None:
    """Tables, catalogue and topology, each only if it is not there. Raises DatabaseUnavailable, BrokerError."""
    database, broker = open_database(settings), connect_broker(settings)
    try:
        wait_for_database(database.engine, 10)
        database.create()
        seed_catalogue(database.engine, database.shop, products)
        admin = broker.admin()
        admin.declare()
        admin.close()
    finally:
        database.engine.dispose()


@contextmanager
def made_by_init(settings: Settings) -> Iterator[None]:
    """Raises SettingError where a statement of the block finds that the database has none of the shop's tables."""
    try:
        yield
    except Exception as error:
        if not lacks_table(error):
            raise
        address = make_url(settings.database_url).render_as_string()
        raise SettingError(
            f"DATABASE_URL={address} has not the tables of this shop: run `testbed init`, or name the database that has"
        ) from error


@dataclass
class Watch:
    """What a process keeps of itself: its history, if it keeps any, and the probe that its parts report to."""

    recorder: Recorder | None
    probe: Probe
    metrics: "Metrics | None" = None

    def malformed(self, group: str, delivery: Delivery) -> None:
        if self.recorder is not None:
            self.recorder.malformed(group, delivery.topic, delivery.error)

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


def open_watch(settings: Settings, role: str) -> Watch:
    recorder = _recorder(settings.history_dir, role) if settings.history_dir else None
    probe: Probe = recorder or NoProbe()
    if settings.crash_at:
        try:
            step, not_before_s = parse_crash_point(settings.crash_at)
        except ValueError as error:
            raise SettingError(f"CRASH_AT={error}") from error
        probe = CrashProbe(probe, step, not_before_s)
    if role != "api" and not settings.metrics_port:
        return Watch(recorder, probe)
    from testbed.metrics import Metrics

    metrics = Metrics()
    metrics.say(
        broker=settings.broker, publish_strategy=settings.publish_strategy, consume_strategy=settings.consume_strategy
    )
    return Watch(recorder, metrics.probe(probe), metrics)


def _recorder(folder: str, role: str) -> Recorder:
    try:
        return Recorder(Path(folder), role)
    except (OSError, HistoryNotKept) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"HISTORY_DIR={folder} takes no history ({reason}): name a folder to write to") from error


def event_sink(settings: Settings, database: Database, broker: Broker, probe: Probe) -> EventSink:
    """Where commands and handlers put their events: seam `publish`; RETRY_POLICY, where its article retries that."""
    publish = settings.seam("publish")
    if publish == "outbox":
        return OutboxSink(database.messaging, Doorbell(database.engine), probe)
    retry = PRESETS[settings.retry_policy] if settings.retry_policy == "article-s3-rabbitmq" else None
    return SINKS[publish](database.messaging, broker.publisher(), probe, retry)


def has_relay(settings: Settings) -> bool:
    return settings.seam("publish") == "outbox"


def relay(settings: Settings, database: Database, broker: Broker, probe: Probe) -> Runs:
    """Seams `relay.claim`, `relay.confirm`, `relay.order`; a naive relay keeps its own pace."""
    chosen = {name.removeprefix("relay."): value for name, value in settings.seams.items() if name.startswith("relay.")}
    make: MakesRelay = relay_factory(RELAYS.get(settings.publish_strategy, Seams())._replace(**chosen))
    if settings.seam("relay.claim") == "lease":
        pace = RelayOptions(
            batch_messages=settings.relay_batch, poll_s=settings.relay_poll_s, lease_s=settings.relay_lease_s
        )
    else:
        pace = NAIVE
    options = replace(pace, publish_timeout_s=settings.publish_timeout_s)
    return make(database.engine, database.messaging, broker.publisher(), options, probe)


def cleanings(settings: Settings, database: Database) -> Mapping[str, Cleaning]:
    """Table -> what deletes its old rows. The relay's role does it now and then, whatever its strategy."""
    engine, messaging, shop = database.engine, database.messaging, database.shop
    events, claims, answers = (
        timedelta(seconds=age_s)
        for age_s in (settings.retention_events_s, settings.retention_claims_s, settings.retention_answers_s)
    )
    return {
        # Every aggregate of this shop has a row that is its state: none is spared for being told by its events alone.
        messaging.event.fullname: partial(delete_old_batches, engine, messaging, events),
        messaging.inbox.fullname: lambda: iter(partial(delete_old_claims, engine, messaging, claims), 0),
        shop.request.fullname: lambda: iter(partial(delete_old_answers, engine, shop, answers), 0),
    }


def outside_caller(
    settings: Settings, database: Database, group: str, sink: EventSink, world: "OutsideWorld"
) -> OutsideCaller | None:
    """Makes the group's calls to the outside world; None for a group that makes none. Seam `on_error`."""
    calls = groups(settings)[group].calls
    if calls is None:
        return None
    call_all = calls.call(world)
    if settings.seam("on_error") == "log-only" and calls.settle is None:
        call_all = taken_as_made(call_all)
    return OutsideCaller(
        database.engine,
        calls.table(database.shop),
        call_all,
        settle=calls.settle(database.shop) if calls.settle else None,
        sink=sink,
        at_once=calls.at_once,
        retry_after_s=RETRY_AFTER_S,
    )


def sweeps(
    settings: Settings, database: Database, group: str, sink: EventSink, caller: OutsideCaller | None
) -> list[Callable[[], int]]:
    """What is to be done now and then beside the group's worker; each tells how much there was to do."""
    found: list[Callable[[], int]] = []
    if caller is not None:
        found.append(caller.sweep)
    sweep = groups(settings)[group].sweep
    if sweep is not None:
        found.append(partial(sweep, database.engine, database.shop, sink))
    return found


def worker(
    settings: Settings,
    database: Database,
    subscriber: Subscriber,
    group: str,
    watch: Watch,
    sink: EventSink,
    call_outside: Callable[[Sequence[Envelope]], None] | None = None,
) -> Worker:
    """Seams `ack`, `inbox`, `inbox.key`, `on_error`, and of the groups that have them `saga` and `metrics.cache`;
    CONSUMER_WORKERS."""
    spec = groups(settings)[group]
    options = WorkerOptions(
        batch_messages=settings.batch or spec.batch_messages,
        retry=PRESETS[settings.retry_policy],
        after_dead_letter=settings.after_dead_letter,
    )
    chosen = Consume(*(settings.seam(name.replace("inbox_key", "inbox.key")) for name in Consume._fields))
    build = worker_class(chosen)
    if group == "order-saga":
        build = SAGAS[settings.seam("saga")](build)
    cache = metrics_cache(settings, database)
    if group == "product-metrics" and cache is not None:
        call_outside = METRICS_CACHE[settings.seam("metrics.cache")](cache)
    return pooled(build, settings.consumer_workers)(
        database.engine,
        database.messaging,
        subscriber,
        group,
        spec.handler(database.shop),
        options,
        watch.probe,
        sink=sink,
        decode=_decode(),
        call_outside=call_outside,
        on_malformed=lambda delivery: watch.malformed(group, delivery),
        random=random.Random(settings.seed),
    )


def metrics_cache(settings: Settings, database: Database) -> MetricsCache | None:
    """Seam `metrics.cache`: None where it is `off`."""
    if settings.seam("metrics.cache") == "off":
        return None
    return MetricsCache(database.engine, database.shop, settings.metrics_cache_s)


def group_setups(settings: Settings, database: Database, sink: EventSink) -> dict[str, GroupSetup]:
    """What each group's worker would be built with: for redoing letters and replaying events."""
    return {
        name: GroupSetup(spec.handler(database.shop), sink, _decode(), spec.takes)
        for name, spec in groups(settings).items()
    }


def _decode() -> Decode:
    return known_types({name: kind.schema_version for name, kind in EVENT_TYPES.items()})


def api_deps(
    settings: Settings, database: Database, sink: EventSink, probe: Probe, operations: "Operations | None" = None
) -> "Deps":
    """Seam `flow`, of which only `sync` changes what a request does."""
    from ablations.flow.sync import SyncOrders
    from core.api.app import Deps

    return Deps(
        Context(database.engine, database.shop, sink, probe),
        token_settings(settings),
        operations=operations,
        create_order=SyncOrders() if settings.seam("flow") == "sync" else create_order,
        metrics_cache=metrics_cache(settings, database),
        phone_secret=settings.phone_key,
    )


def outside_world(settings: Settings) -> "OutsideWorld":
    """The world outside at OUTSIDE_WORLD_URL; in development without one a simulated one, which the log says."""
    from core.effects.outside_world import HttpOutsideWorld, SimulatedOutsideWorld

    if settings.outside_world_url:
        return HttpOutsideWorld(settings.outside_world_url, settings.outside_world_timeout_s)
    if settings.environment != "development":
        raise SettingError("OUTSIDE_WORLD_URL is empty and ENVIRONMENT=production: name the services to call")
    log.warning("no OUTSIDE_WORLD_URL: every outside call is taken as done, and nothing records it")
    return SimulatedOutsideWorld()


def token_settings(settings: Settings) -> "TokenSettings":
    from core.api.tokens import TokenSettings

    try:
        return TokenSettings(settings.secret)
    except ValueError as error:
        raise SettingError(str(error)) from error


def development_token(settings: Settings, subject: str, admin: bool = False, ttl_s: float = 3_600.0) -> str:
    """Signed with the same secret that the API checks. Raises SettingError outside development without a secret."""
    from core.api.tokens import ADMIN, mint

    return mint(token_settings(settings), subject, scopes=(ADMIN,) if admin else (), ttl_s=ttl_s)


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as another process reads them; only those that differ from their defaults."""
    changed = settings.model_dump(exclude_defaults=True)
    return {
        name.upper(): json.dumps(value) if isinstance(value, dict) else str(value) for name, value in changed.items()
    }


_OF_KAFKA = frozenset({"kafka_group_protocol", "linger_ms", "compression"})
_OF_RABBITMQ = frozenset({"rabbitmq_queue_type", "rabbitmq_client"})
_WITHOUT_EFFECT = {
    "kafka": _OF_RABBITMQ,
    "rabbitmq": _OF_KAFKA,
    "memory": _OF_KAFKA | _OF_RABBITMQ | {"durability", "session_timeout_s"},
}
"""Settings that a broker has nothing for: never shown as in force."""


def effective_settings(settings: Settings) -> dict[str, object]:
    """Every setting in force, for run.json; addresses and secrets left out, they say nothing about the run."""
    hidden = {"database_url", "rabbitmq_url", "rabbitmq_management_url", "kafka_bootstrap_servers", "jwt_secret"}
    hidden |= {"outside_world_url", "phone_secret", "history_dir", "crash_at", "topic_prefix", "api_host", "api_port"}
    hidden |= _WITHOUT_EFFECT[settings.broker]
    return {**settings.model_dump(exclude=hidden), settings.broker: broker_settings(settings)}


def settings_table() -> Stacked:
    """Equivalent settings of both brokers, then everything in force here; secrets hidden."""
    settings = read_settings()
    same = Table(title="The same promise on both brokers", show_lines=True)
    for title in ("what is promised", "Kafka", "RabbitMQ"):
        same.add_column(title, overflow="fold")
    for row in equivalents(settings):
        same.add_row(*map(escape, row))
    effective = Table(title=f"In force for BROKER={settings.broker}")
    for title in ("setting", "value"):
        effective.add_column(title, overflow="fold")
    for name, value in sorted(effective_settings(settings).items()):
        if isinstance(value, dict):
            for role, inner in value.items():
                lines = inner.items() if isinstance(inner, dict) else [("", inner)]
                for key, text in lines:
                    effective.add_row(escape(f"{name} {role} {key}".strip()), escape(str(text)))
        else:
            effective.add_row(name.upper(), escape(str(value)))
    return Stacked(same, effective)
