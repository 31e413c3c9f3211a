"""One process, one role: the API, a relay, or the consumers of some groups; ends in good order on SIGTERM or ^C."""

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.inbox.dead_letters import DeadLetterService
from core.inbox.retries import is_transient
from core.journey import NoProbe
from core.messaging.ports import Broker
from core.messaging.topology import DEAD_LETTER_GROUP
from core.storage.cleaning import clean_regularly
from testbed import wiring
from testbed.settings import SettingError, Settings

if TYPE_CHECKING:
    from core.effects.outside_world import OutsideWorld

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 1.0
"""How often what hangs is looked for: calls to the outside world, sagas past their deadline."""


def serve(settings: Settings) -> None:
    """The HTTP API. With BROKER=memory it is the whole system: relay and consumers run in its threads."""
    # Here and not above: the other roles start in half the time without a web server's modules.
    from core.api.app import create_app
    from testbed.operations import ShopOperations
    from testbed.requests_seen import install

    port = _bound(settings.api_host, settings.api_port, f"API_HOST={settings.api_host} API_PORT={settings.api_port}")
    watch = wiring.open_watch(settings, "api")
    database = wiring.open_database(settings, pool_connections=40)
    broker = wiring.connect_broker(settings)
    sink = wiring.event_sink(settings, database, broker, watch.probe)
    operations = ShopOperations(settings, database, broker, sink, watch.probe)
    stop = threading.Event()
    beside: list[threading.Thread] = []
    if settings.broker == "memory":
        database.create()
        broker.admin().declare()
        beside = [_thread("relay", lambda: wiring.relay(settings, database, broker, watch.probe).run(stop))]
        everyone = [*wiring.groups(settings), DEAD_LETTER_GROUP]
        beside += consumers(settings, database, broker, everyone, watch, stop)
        beside.append(_cleaner(settings, database, stop))
        for thread in beside:
            thread.start()
    app = create_app(wiring.api_deps(settings, database, sink, NoProbe(), operations))
    if watch.metrics is not None:
        watch.metrics.ask_database(database.engine, database.messaging, database.shop)
        if settings.broker == "memory":
            watch.metrics.ask_lag(broker, everyone, settings.lag_alarm_messages)
        install(watch.metrics, app)
    try:
        _answer(app, port)
    finally:
        stop.set()
        for thread in beside:
            thread.join(timeout=15)
        sink.close()
        watch.close()


def relay(settings: Settings) -> None:
    """Move committed rows to the broker, and delete what is too old, until asked to stop."""
    if settings.broker == "memory":
        raise SettingError("BROKER=memory lives in one process: `testbed serve` runs its relay and consumers too")
    if not wiring.has_relay(settings):
        raise SettingError(f"PUBLISH_STRATEGY={settings.publish_strategy} publishes from the API: it has no relay")
    watch = wiring.open_watch(settings, "relay")
    database = wiring.open_database(settings)
    broker = wiring.connect_broker(settings)
    stop = stop_on_signal()
    _show_metrics(settings, watch, database)
    cleaner = _cleaner(settings, database, stop)
    cleaner.start()
    try:
        wiring.relay(settings, database, broker, watch.probe).run(stop)
    finally:
        stop.set()
        # A batch that takes longer is cut off with the process, and rolled back.
        cleaner.join(timeout=5)
        watch.close()


def _cleaner(settings: Settings, database: wiring.Database, stop: threading.Event) -> "RoleThread":
    """Deletes what is too old, until `stop`; not started."""
    work = wiring.cleanings(settings, database)
    return _thread("cleaner", partial(clean_regularly, database.engine, work, settings.retention_check_s, stop))


def consume(settings: Settings, groups: Sequence[str]) -> None:
    """Consume for `groups` (all if none is named), each in a thread of its own, until asked to stop."""
    if settings.broker == "memory":
        raise SettingError("BROKER=memory lives in one process: `testbed serve` runs its relay and consumers too")
    known = [*wiring.groups(settings), DEAD_LETTER_GROUP]
    for group in groups:
        if group not in known:
            raise SettingError(f"no consumer group {group!r}; use some of {', '.join(known)}")
    watch = wiring.open_watch(settings, "consumer")
    database = wiring.open_database(settings, pool_connections=4 + 2 * len(known))
    broker = wiring.connect_broker(settings)
    stop = stop_on_signal()
    if watch.metrics is not None:
        watch.metrics.ask_lag(broker, groups or known, settings.lag_alarm_messages)
    _show_metrics(settings, watch, database)
    threads = consumers(settings, database, broker, groups or known, watch, stop)
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        watch.close()
    if any(thread.failed for thread in threads):
        # Whoever supervises this process must see that it was not asked to end.
        sys.exit(2)


def outside_world(settings: Settings, port: int, record: Path) -> None:
    """The services outside the shop, until asked to stop. What they did before is read from `record`."""
    from servers.outside_world.app import create_app as create_outside_world
    from servers.outside_world.record import Record, RecordInUse
    from servers.outside_world.world import World

    listener = _bound("127.0.0.1", port, f"--port {port}")
    watch = wiring.open_watch(settings, "outside")
    try:
        world = World(Record(record), settings.outside_world_behaviour, settings.seed)
    except RecordInUse as error:
        raise SettingError(str(error)) from error
    try:
        # Calls that are never answered would hold it for ever.
        _answer(create_outside_world(world), listener, timeout_graceful_shutdown=1)
    finally:
        world.record.close()
        watch.close()


def _bound(host: str, port: int, said: str) -> socket.socket:
    """Where to listen. Raises SettingError with what was `said` if it cannot be had: uvicorn would only log it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SettingError(
            f"{said} cannot be listened on: {error.strerror}. End the program that has it, or name another"
        ) from error
    return bound


def _answer(app: object, listener: socket.socket, timeout_graceful_shutdown: int | None = None) -> None:
    """Until SIGTERM or ^C."""
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        loop="uvloop",
        http="httptools",
        access_log=False,
        timeout_graceful_shutdown=timeout_graceful_shutdown,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def _show_metrics(settings: Settings, watch: wiring.Watch, database: wiring.Database) -> None:
    if watch.metrics is None:
        return
    watch.metrics.ask_database(database.engine, database.messaging, database.shop)
    try:
        watch.metrics.serve(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        raise SettingError(f"METRICS_PORT={settings.metrics_port} cannot be used: {error}") from error


def consumers(
    settings: Settings,
    database: wiring.Database,
    broker: Broker,
    groups: Sequence[str],
    watch: wiring.Watch,
    stop: threading.Event,
    world: "OutsideWorld | None" = None,
) -> Sequence["RoleThread"]:
    """A thread for each group, and for what sweeps behind it; not started. `world`: not the one that settings name."""
    sink = wiring.event_sink(settings, database, broker, watch.probe)
    called = world or wiring.outside_world(settings)
    callers = {
        group: wiring.outside_caller(settings, database, group, sink, called)
        for group in groups
        if group != DEAD_LETTER_GROUP
    }

    def run(group: str) -> None:
        subscriber = broker.subscriber(group, settings.prefetch)
        if watch.metrics is not None:
            subscriber = watch.metrics.subscriber(subscriber, group)
        try:
            if group == DEAD_LETTER_GROUP:
                DeadLetterService(database.engine, database.messaging, subscriber, watch.probe).run(stop)
            else:
                caller = callers[group]
                call_outside = caller.call_for if caller else None
                wiring.worker(settings, database, subscriber, group, watch, sink, call_outside).run(stop)
        except Exception:
            # A role with a silently missing group would look like a slow one: end the whole process.
            log.exception("consumer group ended", extra={"group": group})
            stop.set()
            raise
        finally:
            subscriber.close()

    threads = [_thread(group, lambda group=group: run(group)) for group in groups]  # type: ignore[misc]
    for group, caller in callers.items():
        for number, work in enumerate(wiring.sweeps(settings, database, group, sink, caller), start=1):
            threads.append(_thread(f"{group}-sweeper-{number}", partial(_sweep, group, work, stop)))
    return threads


def _sweep(group: str, work: Callable[[], int], stop: threading.Event) -> None:
    """Now and then until `stop`: at once again while there is much to do. A database that is away is waited for."""
    while not stop.wait(SWEEP_EVERY_S):
        try:
            while work() and not stop.is_set():
                pass
        except Exception as error:
            if not is_transient(error):
                log.exception("sweeper ended", extra={"group": group})
                stop.set()
                raise
            log.warning("database failed, the sweeper waits", extra={"group": group, "error": str(error)})


class RoleThread(threading.Thread):
    """Remembers whether its work ended by an error."""

    failed = False

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            self.failed = True
            raise


def _thread(name: str, run: Callable[[], None]) -> RoleThread:
    return RoleThread(target=run, name=name, daemon=True)


def stop_on_signal() -> threading.Event:
    """Set on SIGTERM and ^C: a role finishes what it began."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
