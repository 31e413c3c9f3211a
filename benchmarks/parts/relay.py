"""Our relay against the naive one: the same events, publisher and database, in alternating rounds of one process.

A round fills the outbox, then measures from the relay's start until all of it was cleared. Broker and database come as
factories; nothing here names an adapter.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from sqlalchemy import Connection, Engine

from ablations.relay import STRATEGIES, MakesRelay, Runs, relay_factory
from benchmarks.parts.rounds import compare_rounds
from core.journey import Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Publisher
from core.outbox.relay import RelayOptions
from core.outbox.rows import add_events
from core.storage.event_store import new_event_id
from core.storage.tables import MessagingTables

BASELINE = "outbox-naive"
WRITE_MESSAGES = 1_000
"""Events a transaction while filling; not part of what is measured."""


def run(
    engine: Engine,
    tables: MessagingTables,
    publisher: Callable[[], Publisher],
    *,
    strategies: Sequence[str] = ("outbox-leased",),
    messages: int = 20_000,
    baseline_messages: int = 2_000,
    size_bytes: int = 400,
    keys: int = 10_000,
    topic: str = "orders",
    event_type: str = "OrderCreated",
    rounds: int = 5,
    seed: int = 1,
    options: RelayOptions | None = None,
    round_timeout_s: float = 120.0,
) -> Iterator[dict[str, Any]]:
    """One row a strategy, as `testbed bench relay --json` prints them, each as soon as it is known.

    `baseline_messages`: the naive relay sends at most its 1,000 rows a tick, so it gets fewer. Raises TimeoutError when
    a round does not end.
    """
    versions = count(1)
    outbox = Outbox(engine, tables, keys, size_bytes, topic, event_type, versions)

    def rate(make: MakesRelay, given: RelayOptions | None, amount: int) -> float:
        return cleared_per_s(
            outbox,
            amount,
            publisher,
            lambda sender, probe: make(engine, tables, sender, given, probe),
            round_timeout_s,
        )

    for name in strategies:
        make = relay_factory(STRATEGIES[name])
        result = compare_rounds(
            lambda make=make: rate(make, options, messages),  # type: ignore[misc]
            lambda: rate(relay_factory(STRATEGIES[BASELINE]), None, baseline_messages),
            rounds,
            seed,
            name=name,
            baseline_name=BASELINE,
        )
        yield result.as_dict()


def cleared_per_s(
    outbox: "Outbox",
    messages: int,
    publisher: Callable[[], Publisher],
    relay: Callable[[Publisher, Probe], Runs],
    timeout_s: float,
) -> float:
    """One round: `messages` are written, then a relay clears them; `relay` must report to the probe it is handed."""
    outbox.fill(messages)
    sender = publisher()
    try:
        return messages / drain_s([lambda probe: relay(sender, probe)], Countdown(messages), timeout_s)
    finally:
        sender.close()


class Outbox:
    def __init__(
        self,
        engine: Engine,
        tables: MessagingTables,
        keys: int,
        size_bytes: int,
        topic: str,
        event_type: str,
        versions: "count[int]",
    ) -> None:
        self._engine, self._tables, self._keys = engine, tables, keys
        self._topic, self._event_type = topic, event_type
        self._data = b'{"filler":"' + b"x" * max(size_bytes - 13, 0) + b'"}'
        # A number of its own for every event: unique per key whatever the number of keys.
        self._versions = versions

    def fill(self, messages: int) -> None:
        for start in range(0, messages, WRITE_MESSAGES):
            with self._engine.begin() as connection:
                self.fill_in(connection, min(WRITE_MESSAGES, messages - start), start)

    def fill_in(self, connection: Connection, messages: int, start: int = 0) -> None:
        """Within the caller's transaction."""
        for first in range(start, start + messages, WRITE_MESSAGES):
            last = min(first + WRITE_MESSAGES, start + messages)
            add_events(connection, self._tables, [self._event(place) for place in range(first, last)])

    def _event(self, place: int) -> Envelope:
        key, version = f"bench-{place % self._keys}", next(self._versions)
        source = "/shop/bench"
        return Envelope(
            new_event_id(), self._topic, self._event_type, source, key, version, datetime.now(UTC), self._data
        )


class Countdown:
    """A probe that notes when `messages` have left the outbox. Asking the database would walk over all dead rows."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self._lock = threading.Lock()
        self.is_down = threading.Event()

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        if step is Step.CLEARED:
            with self._lock:
                self._left -= len(ids)
            if self._left <= 0:
                self.is_down.set()


def drain_s(relays: Sequence[Callable[[Countdown], Runs]], countdown: Countdown, timeout_s: float) -> float:
    """Seconds from the relays' start until `countdown` is down; raises TimeoutError."""
    stop = threading.Event()
    threads = [threading.Thread(target=make(countdown).run, args=(stop,), name="bench-relay") for make in relays]
    started_at = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        if not countdown.is_down.wait(timeout_s):
            raise TimeoutError(f"not all events had left the outbox after {timeout_s:g} s")
        return time.perf_counter() - started_at
    finally:
        stop.set()
        for thread in threads:
            thread.join()
