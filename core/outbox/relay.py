"""Move committed outbox rows to the broker, in order per key, as fast as the broker takes them.

Deletes only the confirmed prefix of each key: a crash at any line repeats messages, it never skips one.
While one batch is being published, a second thread clears the batch before it and reads the one after it.
Not here: what a row holds (`rows`), what follows from an answer (`decisions`), who owns a bucket (`leases`).
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine

from core.journey import NoProbe, Probe, Step
from core.messaging.outcomes import Outcome
from core.messaging.ports import Publisher
from core.outbox.decisions import Row, Settlement, SilentKeys, is_outage, settle, without_held
from core.outbox.doorbell import Listener
from core.outbox.leases import LeaseKeeper
from core.outbox.storage import LOST, PLANNER, DriverSession, Horizon, OutboxStorage
from core.storage.event_store import new_event_id
from core.storage.tables import BUCKETS, MessagingTables

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelayOptions:
    batch_messages: int = 2_000
    """Rows read, published and cleared together."""
    poll_s: float = 0.2
    """Looking again although no doorbell rang."""
    publish_timeout_s: float = 30.0
    lease_s: float = 5.0
    """A dead relay's buckets are taken over within this time."""
    max_attempts: int = 5
    """Refusals of one message before its key is parked."""
    refused_wait_s: float = 0.2
    """Before a refused message is tried again; doubles with each refusal."""
    unknown_wait_s: float = 0.5
    """Before a key is tried again whose message alone got no answer."""
    outage_wait_s: float = 0.05
    """Before all is tried again when nothing was answered; doubles up to `outage_wait_max_s`."""
    outage_wait_max_s: float = 1.0
    silent_batches: int = 8
    """While nothing is answered, about so many batches of other keys are asked before the same keys are asked again."""
    look_back_every_s: float = 0.25
    """Reading starts past rows long dead; where, is found out so often."""


class Batch(NamedTuple):
    rows: Sequence[Row]
    epochs: Mapping[int, int]
    """Bucket -> epoch at which the rows were read: the fence of what is marked later."""


EMPTY = Batch((), {})


class Relay:
    """Owns a fair share of the buckets and empties them. One `run` at a time; any number of relays side by side."""

    def __init__(
        self,
        engine: Engine,
        tables: MessagingTables,
        publisher: Publisher,
        options: RelayOptions | None = None,
        probe: Probe | None = None,
        owner: str | None = None,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._publisher = publisher
        self._options = options or RelayOptions()
        self._probe = probe or NoProbe()
        self._owner = owner or f"{socket.gethostname()}-{os.getpid()}-{new_event_id()[-6:]}"
        self._wake = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Relay until `stop` is set; what is being published then is still settled, and the leases are released.

        Survives the loss of broker and database alike; raises only on a fault of the code or the schema.
        """
        while not stop.is_set():
            try:
                self._serve(stop)
            except LOST as error:
                log.warning("database lost, trying again", extra={"owner": self._owner, "error": str(error).strip()})
                stop.wait(0.25)

    def _serve(self, stop: threading.Event) -> None:
        listener = Listener(self._engine, self._wake)
        keeper = LeaseKeeper(self._engine, self._tables, self._owner, self._options.lease_s, self._wake, BUCKETS)
        with (
            DriverSession(self._engine, PLANNER) as session,
            ThreadPoolExecutor(1, thread_name_prefix="outbox-storage") as storage_thread,
        ):
            desk = _Desk(self._open_storage(session), keeper, self._options)
            listener.start()
            keeper.start()
            try:
                self._pump(desk, storage_thread, stop)
            finally:
                keeper.close()
                listener.close()

    def _open_storage(self, session: DriverSession) -> OutboxStorage:
        return OutboxStorage(session, self._tables)

    def _pump(self, desk: "_Desk", storage_thread: ThreadPoolExecutor, stop: threading.Event) -> None:
        current, unsettled, settlement = EMPTY, EMPTY, Settlement()
        outage_wait_s = self._options.outage_wait_s
        silent = SilentKeys()
        while not stop.is_set():
            silent_keys = silent.at(time.monotonic())
            if not current.rows:
                self._wake.clear()
                current = self._turn(desk, unsettled, settlement, silent_keys)
                unsettled, settlement = EMPTY, Settlement()
                if not current.rows and silent_keys:
                    # Nobody else is there to be asked.
                    silent.clear()
                elif not current.rows:
                    self._wake.wait(self._options.poll_s)
                continue
            if not desk.may_publish():
                current = EMPTY
                continue
            turn = storage_thread.submit(desk.turn, unsettled, settlement, current, silent_keys)
            outcomes = self._publish(current)
            upcoming, cleared = turn.result()
            self._report(cleared)
            unsettled, settlement = current, self._decide(current, outcomes)
            current = upcoming._replace(rows=without_held(upcoming.rows, settlement.held_keys))
            if is_outage(outcomes):
                current = EMPTY
                log.warning("no answer from the broker", extra={"owner": self._owner, "reason": outcomes[0].reason})
                stop.wait(outage_wait_s)
                hold_s = self._options.unknown_wait_s + self._options.silent_batches * outage_wait_s
                silent.add((row.envelope.key for row in unsettled.rows), time.monotonic() + hold_s)
                outage_wait_s = min(outage_wait_s * 2, self._options.outage_wait_max_s)
            else:
                silent.answered(time.monotonic() + self._options.unknown_wait_s)
                outage_wait_s = self._options.outage_wait_s
        self._report(desk.write(unsettled, settlement))

    def _publish(self, batch: Batch) -> Sequence[Outcome]:
        ids = [row.envelope.id for row in batch.rows]
        self._probe.reach(Step.LEASED, ids)
        self._probe.reach(Step.ATTEMPTED, ids)
        outcomes = self._publisher.publish([row.envelope for row in batch.rows], self._options.publish_timeout_s)
        self._probe.reach(Step.CONFIRMED, ids, outcomes=[outcome.status for outcome in outcomes])
        return outcomes

    def _decide(self, batch: Batch, outcomes: Sequence[Outcome]) -> Settlement:
        if is_outage(outcomes):
            # Nothing is learnt about any message, so nothing is written; what was read ahead is dropped as well.
            return Settlement()
        settlement = settle(
            batch.rows,
            outcomes,
            max_attempts=self._options.max_attempts,
            refused_wait_s=self._options.refused_wait_s,
            unknown_wait_s=self._options.unknown_wait_s,
        )
        for failure in settlement.failures:
            if failure.is_parked:
                log.error(
                    "key parked, its later events wait; mend the cause, then `testbed dlq retry --parked`",
                    extra={
                        "key": failure.row.envelope.key,
                        "event_id": failure.row.envelope.id,
                        "correlation_id": failure.row.envelope.correlation_id,
                        "reason": failure.reason,
                    },
                )
        return settlement

    def _turn(self, desk: "_Desk", done: Batch, settlement: Settlement, silent_keys: Sequence[str]) -> Batch:
        """Settle, then read, with nothing in flight."""
        upcoming, cleared = desk.turn(done, settlement, EMPTY, silent_keys)
        self._report(cleared)
        return upcoming

    def _report(self, cleared: Sequence[Row]) -> None:
        if cleared:
            self._probe.reach(Step.CLEARED, [row.envelope.id for row in cleared])


class _Desk:
    """The database's side of the pump: one call settles a batch and reads the next. One thread at a time."""

    def __init__(self, storage: OutboxStorage, keeper: LeaseKeeper, options: RelayOptions) -> None:
        self._storage, self._keeper, self._options = storage, keeper, options
        self._start = _Start()
        self._look_back_at = 0.0

    def may_publish(self) -> bool:
        return self._keeper.is_valid()

    def turn(
        self, done: Batch, settlement: Settlement, in_flight: Batch, silent_keys: Sequence[str]
    ) -> tuple[Batch, Sequence[Row]]:
        """Write what followed from `done`, then read the next batch past what is `in_flight`; also what was cleared."""
        cleared = self.write(done, settlement)
        flying = {row.bucket for row in in_flight.rows}
        epochs = self._keeper.use(flying)
        rows = self._read(epochs, [row.id for row in in_flight.rows], silent_keys)
        self._keeper.used(flying.union(row.bucket for row in rows))
        return Batch(rows, epochs), cleared

    def write(self, done: Batch, settlement: Settlement) -> Sequence[Row]:
        gone = self._storage.clear(settlement.cleared, done.epochs)
        self._storage.fail(settlement.failures, done.epochs)
        if len(gone) < len(settlement.cleared):
            log.warning("not marked: another relay owns it", extra={"messages": len(settlement.cleared) - len(gone)})
            return [row for row in settlement.cleared if row.id in gone]
        return settlement.cleared

    def _read(self, epochs: Mapping[int, int], in_flight: Sequence[int], silent_keys: Sequence[str]) -> Sequence[Row]:
        buckets = sorted(epochs)
        if buckets and (time.monotonic() >= self._look_back_at or not self._start.holds_for(epochs)):
            # What was below the start stays below it; only buckets just gained may have rows there.
            from_id = self._start.id if self._start.holds_for(epochs) else 0
            self._start.look_back(epochs, self._storage.horizon(buckets, from_id))
            self._look_back_at = time.monotonic() + self._options.look_back_every_s
        rows = self._storage.read(buckets, self._options.batch_messages, in_flight, self._start.id, silent_keys)
        self._start.saw(rows)
        return rows


class _Start:
    """Where reading starts: below it is no pending row of the owned buckets, and none will ever be.

    Else a later event of a key could be read while an earlier one, below the start, is not: after a transaction that
    commits late, a bucket taken over, a key requeued. An id is drawn by a transaction that has its own number already;
    so once all that ran at an instant have ended, no id drawn before that instant can appear any more.
    """

    def __init__(self) -> None:
        self.id = 0
        self._epochs: Mapping[int, int] = {}
        self._highest = 0
        """Highest id read so far."""
        self._bound = 0
        """No row below it will appear."""
        self._next_bound = self._once_ended = 0
        """The bound as soon as every transaction below `_once_ended` has ended."""

    def holds_for(self, epochs: Mapping[int, int]) -> bool:
        """Whether nothing was taken over since the last look back."""
        return epochs.items() <= self._epochs.items()

    def look_back(self, epochs: Mapping[int, int], horizon: Horizon) -> None:
        if horizon.oldest_running >= self._once_ended:
            self._bound, self._next_bound, self._once_ended = (
                self._next_bound,
                self._highest,
                horizon.next_transaction,
            )
        self._epochs = dict(epochs)
        self.id = self._bound if horizon.lowest is None else min(self._bound, horizon.lowest)

    def saw(self, rows: Sequence[Row]) -> None:
        if rows:
            self._highest = max(self._highest, rows[-1].id)
