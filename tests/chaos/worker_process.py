"""A consumer process that is killed, or works until it is told to stop (SIGTERM). Argument: one JSON object
{profile, address, settings, prefix, database, seams,
crash_at, crash_after, crash_at_record, pause_at, is_called, batch_messages, published_messages}."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from sqlalchemy import Connection, MetaData, text

from ablations.consume import Consume, worker_class
from core.inbox.handlers import HandlerResult
from core.inbox.retries import RetryPolicy
from core.inbox.worker import WorkerOptions
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Broker
from core.storage.database import create_database_engine
from core.storage.tables import messaging_tables
from faults.crash import CrashProbe
from tests.contract.profiles import TOPOLOGY, connect

GROUP = "billing"
BATCH_MESSAGES = 50
POISON = b'"poison"'


class Later:
    """Passes on `step` only from its `count`-th time on: a crash in mid-batch."""

    def __init__(self, inner: Probe, step: Step, count: int) -> None:
        self._inner = inner
        self._step = step
        self._left = count

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        self._left -= step is self._step
        if step is not self._step or self._left <= 0:
            self._inner.reach(step, ids, group=group, outcomes=outcomes)


class Forgotten:
    """Lets the first `acked` count only once the broker has heard of it: acks travel on a thread of their own, and a
    process that died before them would show what comes of no ack at all."""

    def __init__(self, inner: Probe, broker: Broker, published_messages: int) -> None:
        self._inner = inner
        self._admin = broker.admin()
        self._published_messages = published_messages

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is Step.ACKED:
            while self._admin.lag(GROUP)["orders"].lag_messages > self._published_messages - len(ids):
                time.sleep(0.02)
        self._inner.reach(step, ids, group=group, outcomes=outcomes)


def count_it(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    """Refuses poison, and counts that where no rollback reaches: in the sequence `refused`."""
    if any(envelope.data == POISON for envelope in envelopes):
        connection.execute(text("SELECT nextval('refused')"))
        raise ValueError("this message can never be applied")
    return HandlerResult(["counted"] * len(envelopes))


class Paused:
    """Stops the whole process at `step`: to the broker it is as silent as a machine that is gone."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is self._step and ids:
            os.kill(os.getpid(), signal.SIGSTOP)


class EachCounted:
    """Handles record by record, and counts each where no rollback reaches: in the sequence `handled`."""

    def __init__(self, crash_at_record: int) -> None:
        self._left = crash_at_record

    def __call__(self, connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        handled = min(len(envelopes), self._left)
        connection.execute(text("SELECT max(nextval('handled')) FROM generate_series(1, :n)"), {"n": handled})
        self._left -= handled
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        return HandlerResult(["counted"] * len(envelopes))


def main(told: dict[str, Any]) -> None:
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if told.get("is_called"):
        # It has started; now it waits until it is called to work.
        print("ready", flush=True)
        sys.stdin.readline()
    topology = replace(TOPOLOGY, prefix=told["prefix"])
    broker = connect(told["profile"], told["address"], topology, **told.get("settings", {}))
    probe: Probe = Paused(Step(told["pause_at"])) if "pause_at" in told else NoProbe()
    if told["crash_at"]:
        step = Step(told["crash_at"])
        probe = Later(CrashProbe(probe, step), step, told["crash_after"])
        if step is Step.ACKED:
            probe = Forgotten(probe, broker, told["published_messages"])
    batch_messages = told.get("batch_messages", BATCH_MESSAGES)
    subscriber = broker.subscriber(GROUP, max(batch_messages, 500))
    engine = create_database_engine(told["database"])
    build = worker_class(Consume(**told["seams"]))
    options = WorkerOptions(
        batch_messages=batch_messages, receive_timeout_s=0.2, retry=RetryPolicy(tries=3, first_delay_s=0.1)
    )
    handler = EachCounted(told["crash_at_record"]) if "crash_at_record" in told else count_it
    build(engine, messaging_tables(MetaData()), subscriber, GROUP, handler, options, probe).run(stop)
    subscriber.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
