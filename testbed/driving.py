"""The processes of a run whose load enters below the API: `python -m testbed.driving outbox|broker|receiver`.

Started by the run alone (`driven_lab`), with the plan of the load in LOAD_PLAN; a command for people they are not.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.open_loop import EVENT_TYPE, Events, Send, drive, publishing, receive, schedule_of, writing
from benchmarks.scenario import Load
from core.domain.events import EVENT_TYPES
from core.messaging.topology import Route, Topology
from core.storage.event_store import new_event_id
from history.records import RECEIVER
from testbed import logs, wiring
from testbed.roles import stop_on_signal
from testbed.settings import Settings, read_settings


def outbox(settings: Settings) -> None:
    """Write events into the outbox, as committed changes of the shop would."""
    watch = wiring.open_watch(settings, "driver")
    database, broker = wiring.open_database(settings), wiring.connect_broker(settings)
    sink = wiring.event_sink(settings, database, broker, watch.probe)
    assert watch.recorder is not None
    try:
        _drive(settings, watch, writing(database.engine, sink, watch.recorder), keeps_order=False)
    finally:
        sink.close()
        database.engine.dispose()
        watch.close()


def broker(settings: Settings) -> None:
    """Publish events straight to the broker."""
    watch = wiring.open_watch(settings, "driver")
    publisher = wiring.connect_broker(settings, driven_topology(settings)).publisher()
    try:
        _drive(settings, watch, publishing(publisher, watch.probe, settings.publish_timeout_s), keeps_order=True)
    finally:
        publisher.close()
        watch.close()


def receiver(settings: Settings) -> None:
    """Receive, write down and ack, until asked to stop."""
    watch = wiring.open_watch(settings, RECEIVER)
    stop = stop_on_signal()
    shape = driven_topology(settings)
    subscriber = wiring.connect_broker(settings, shape).subscriber(RECEIVER, settings.prefetch)
    try:
        receive(
            subscriber,
            RECEIVER,
            watch.probe,
            stop,
            settings.batch or settings.prefetch,
            lambda delivery: watch.malformed(RECEIVER, delivery),
        )
    finally:
        subscriber.close()
        watch.close()


def driven_topology(settings: Settings) -> Topology:
    """What a load at broker level travels through: one topic, one event type, one group that receives it."""
    kind = EVENT_TYPES[EVENT_TYPE]
    return Topology(
        {EVENT_TYPE: Route(kind.topic, kind.event_key)},
        {RECEIVER: frozenset({EVENT_TYPE})},
        settings.partitions,
        settings.audit,
        settings.topic_prefix,
    )


def _drive(settings: Settings, watch: wiring.Watch, send: Send, keeps_order: bool) -> None:
    plan: Mapping[str, Any] = json.loads(os.environ["LOAD_PLAN"])
    load = Load.model_validate(plan["load"])
    stop = stop_on_signal()
    events = Events(load, schedule_of(load, plan["seed"]), new_event_id(), correlates=not keeps_order)
    # What was made by now lives to the end: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    assert watch.recorder is not None
    drive(
        events,
        plan["start_ns"],
        send,
        watch.recorder,
        stop,
        max_waiting=load.max_in_flight,
        batch_messages=settings.relay_batch,
        keeps_order=keeps_order,
    )


ROLES: Mapping[str, Callable[[Settings], None]] = {"outbox": outbox, "broker": broker, "receiver": receiver}


def main() -> None:
    settings = read_settings()
    logs.configure(settings.log_format)
    ROLES[sys.argv[1]](settings)


if __name__ == "__main__":
    main()
