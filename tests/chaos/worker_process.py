"""A consumer process that is killed, or works until it is told to stop (SIGTERM). Argument: one JSON object
{profile, address, prefix, database, seams, crash_at, options}; it writes `ready` once its tables and broker answer."""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from sqlalchemy import Connection, MetaData

from ablations.consume import Consume, worker_class
from core.inbox.handlers import HandlerResult
from core.inbox.worker import WorkerOptions
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.storage.database import create_database_engine
from core.storage.tables import messaging_tables
from faults.crash import CrashProbe
from tests.contract.profiles import TOPOLOGY, connect

GROUP = "billing"


def count_it(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    if any(envelope.data == b'"poison"' for envelope in envelopes):
        raise ValueError("this message can never be applied")
    return HandlerResult(["counted"] * len(envelopes))


def main(told: dict[str, Any]) -> None:
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    probe: Probe = NoProbe()
    if told["crash_at"]:
        probe = CrashProbe(probe, Step(told["crash_at"]))
    broker = connect(told["profile"], told["address"], replace(TOPOLOGY, prefix=told["prefix"]))
    subscriber = broker.subscriber(GROUP)
    engine = create_database_engine(told["database"])
    build = worker_class(Consume(**told["seams"]))
    options = WorkerOptions(batch_messages=100, receive_timeout_s=0.2)
    build(engine, messaging_tables(MetaData()), subscriber, GROUP, count_it, options, probe).run(stop)
    subscriber.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
