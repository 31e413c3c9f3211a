"""One consumer group's loop: receive a batch; claim, effect and next events in one transaction; commit; then ack.

Whatever happens between two lines, a message is applied once: before the commit nothing happened and it comes again;
after the commit its id is claimed, and a repeat does nothing. A bad message is found by halves inside savepoints, so
that the others of its batch are applied; later messages of its key wait until it was applied or given up.
Not here: what an effect is (`handlers`), how ids are claimed (`claims`), what becomes of a letter (`dead_letters`).
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from random import Random
from threading import Event
from typing import Literal, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from core.inbox.handlers import Decode, EventSink, GroupHandler, Poison
from core.inbox.held_keys import HeldKeys, KeyHeld, NothingHeld
from core.inbox.retries import RetryPolicy, is_transient
from core.inbox.writing import GroupWriting, Written
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure, Subscriber
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_AWAY = RetryPolicy(tries=None, first_delay_s=0.05, max_delay_s=2.0)
"""How long to wait before a whole batch is repeated after a deadlock or a lost database."""


class Stop(Protocol):
    """A `threading.Event`, or what looks like one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


@dataclass(frozen=True)
class WorkerOptions:
    batch_messages: int = 1_000
    """Most messages a transaction. More is quicker and repeats more after a crash."""
    receive_timeout_s: float = 0.5
    """Also how late a stop is noticed when nothing arrives."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    after_dead_letter: Literal["follow", "wait"] = "follow"
    """Later messages of a dead letter's key are applied, or become letters too until the first one was redone."""
    dead_letter_timeout_s: float = 10.0
    journal: bool = True
    """Write the `effect` rows. A service without a checker can leave them out: the inbox knows the order too."""


class Failed(NamedTuple):
    """A message which could not be applied, and the later ones of its key that came with it, in order."""

    delivery: Delivery
    error: Exception
    held: list[Delivery]


class Applied(NamedTuple):
    """What a committed batch came to."""

    settled: Sequence[Delivery]
    """Applied, ignored, or applied before: the broker may forget them."""
    failed: Sequence[Failed] = ()


class Worker:
    """Reads with one subscriber, in one thread. An ablation overrides one of its methods."""

    def __init__(
        self,
        engine: Engine,
        tables: MessagingTables,
        subscriber: Subscriber,
        group: str,
        handler: GroupHandler,
        options: WorkerOptions = WorkerOptions(),
        probe: Probe | None = None,
        *,
        sink: EventSink | None = None,
        decode: Decode | None = None,
        call_outside: Callable[[Sequence[Envelope]], None] | None = None,
        on_malformed: Callable[[Delivery], None] | None = None,
        random: Random | None = None,
    ) -> None:
        """`sink`: where the handler's next events go. `call_outside`: after the commit and before the ack, with all
        envelopes settled (repeats too): does what handlers reserved, see `outside`, or renews copies. `on_malformed`:
        is told of each delivery without an id, which no probe can name. `random`: for the back-off."""
        self.engine = engine
        self.tables = tables
        self.subscriber = subscriber
        self.group = group
        self.options = options
        self.probe = probe or NoProbe()
        self.call_outside = call_outside
        self.on_malformed = on_malformed
        self.random = random or Random()
        self.writing = GroupWriting(
            tables, group, handler, probe=probe, sink=sink, decode=decode, journal=options.journal
        )
        self.held_keys = HeldKeys(tables, group) if options.after_dead_letter == "wait" else NothingHeld()
        self.stop: Stop = Event()
        self._first_failed_at: dict[tuple[str, str], datetime] = {}

    def run(self, stop: Stop) -> None:
        """Until `stop` is set; a batch that was begun is finished, unless the database is away."""
        self.stop = stop
        with suppress(_Stopped):
            while not stop.is_set():
                self.step()

    def step(self) -> int:
        """One batch; how many messages were received."""
        deliveries = self.subscriber.receive(self.options.batch_messages, self.options.receive_timeout_s)
        if deliveries:
            self.handle(deliveries)
        return len(deliveries)

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Seam `ack`: the effects are committed first, then the broker is told."""
        messages = self.take_in(deliveries)
        while messages:
            applied = self.apply(messages)
            self.ack(applied.settled)
            messages = [message for failed in applied.failed for message in self.on_failure(failed)]

    def take_in(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Say what was delivered; the malformed ones become dead letters at once."""
        messages = [delivery for delivery in deliveries if delivery.envelope is not None]
        if messages:
            self.probe.reach(Step.DELIVERED, ids_of(messages), group=self.group)
        for delivery in deliveries:
            if delivery.envelope is None:
                if self.on_malformed:
                    self.on_malformed(delivery)
                self.give_up(Failed(delivery, Poison("", f"malformed: {delivery.error}"), []))
        return messages

    def apply(self, messages: Sequence[Delivery]) -> Applied:
        """One committed transaction for all of them; repeated whole while the database is the one that fails."""
        return self._until_the_database_answers(lambda: self.apply_once(messages))

    def apply_once(self, messages: Sequence[Delivery]) -> Applied:
        """Seam `inbox`: claim, effects and next events in one transaction. Raises what `is_transient`."""
        try:
            with self.engine.begin() as connection:
                free, held = self.held_keys.split(connection, messages)
                written, bad = self.write(connection, free), list[Failed]()
        except Exception as error:
            if is_transient(error):
                raise
            with self.engine.begin() as connection:
                # What is checked at the commit must fail inside the savepoint of the message it belongs to.
                connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
                free, held = self.held_keys.split(connection, messages)
                free, written, bad = self.write_all_but_the_bad(connection, free)
        self.writing.committed(written)
        return Applied(free, [*(Failed(message, KeyHeld(message.key), []) for message in held), *bad])

    def write(self, connection: Connection, messages: Sequence[Delivery]) -> Written:
        """In the caller's transaction: claims, effects and next events of those that are new."""
        return self.writing.write(connection, envelopes_of(messages))

    def write_all_but_the_bad(
        self, connection: Connection, messages: Sequence[Delivery]
    ) -> tuple[list[Delivery], Written, list[Failed]]:
        """Find the bad messages by halves, each half in a savepoint; the rest is written, in order within each key."""
        parts = [list(messages)]
        good: list[Delivery] = []
        written = Written()
        failed: dict[tuple[str, str], Failed] = {}
        while parts:
            part: list[Delivery] = []
            for message in parts.pop():
                earlier = failed.get(_order_key(message))
                (earlier.held if earlier else part).append(message)
            if not part:
                continue
            try:
                with connection.begin_nested():
                    more = self.write(connection, part)
            except Exception as error:
                if is_transient(error):
                    raise
                cut = _where_to_cut(part, error)
                if cut == 0:
                    failed[_order_key(part[0])] = Failed(part[0], error, [])
                    parts.append(part[1:])
                else:
                    parts += [part[cut:], part[:cut]]
            else:
                good += part
                written = written.and_then(more)
        return good, written, list(failed.values())

    def ack(self, settled: Sequence[Delivery]) -> None:
        """Their effects are committed: call outside for what they reserved, then let the broker forget them."""
        if not settled:
            return
        if self.call_outside:
            self.call_outside(envelopes_of(settled))
        if self._first_failed_at:
            for message in settled:
                self._first_failed_at.pop(_failure_key(message), None)
        self.subscriber.ack(settled)
        self.probe.reach(Step.ACKED, ids_of(settled), group=self.group)

    def on_failure(self, failed: Failed) -> Sequence[Delivery]:
        """Seam `on_error`: try again in place, then give up. Returns the messages that may go on now."""
        tries = failed.delivery.attempts + 1
        self._first_failed_at.setdefault(_failure_key(failed.delivery), datetime.now(UTC))
        if not isinstance(failed.error, Poison | KeyHeld) and not self.options.retry.is_last(tries):
            self.subscriber.retry(failed.delivery, self.options.retry.delay_s(tries, self.random), failed.held)
            return ()
        return failed.held if self.give_up(failed) else ()

    def give_up(self, failed: Failed) -> bool:
        """Make it a dead letter; if the broker does not confirm that, it is tried again later: False."""
        delivery, now = failed.delivery, datetime.now(UTC)
        first_at = self._first_failed_at.get(_failure_key(delivery), now)
        failure = Failure(_reason(failed.error), delivery.attempts + 1, first_at, now)
        if delivery.envelope is not None:
            self._until_the_database_answers(lambda: self.held_keys.hold(self.engine, delivery, failure))
        outcome = self.subscriber.dead_letter(delivery, failure, self.options.dead_letter_timeout_s)
        if not outcome.is_confirmed:
            log.warning(
                "dead letter not confirmed, the message is tried again",
                extra={
                    "group": self.group,
                    "topic": delivery.topic,
                    "outcome": str(outcome.status),
                    **_names_of(delivery),
                },
            )
            after_s = self.options.retry.delay_s(delivery.attempts + 1, self.random)
            self.subscriber.retry(delivery, after_s, failed.held)
            return False
        self._first_failed_at.pop(_failure_key(delivery), None)
        log.error(
            "message given up, its dead letter is confirmed",
            extra={
                "group": self.group,
                "topic": delivery.topic,
                "attempts": failure.attempts,
                "reason": failure.reason,
                **_names_of(delivery),
            },
        )
        if delivery.envelope is not None:
            self.probe.reach(Step.APPLIED, ids_of([delivery]), group=self.group, outcomes=["dead_lettered"])
        return True

    def _until_the_database_answers(self, work: Callable[[], T]) -> T:
        for tries in count(1):
            try:
                return work()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning(
                    "database failed, the batch is repeated",
                    extra={"group": self.group, "tries": tries, "error": str(error)},
                )
            if self.stop.wait(DATABASE_AWAY.delay_s(tries, self.random)):
                break
        raise _Stopped


class _Stopped(Exception):
    """Told to stop while the database is away: nothing was acked, so all of the batch comes again."""


def envelopes_of(messages: Sequence[Delivery]) -> list[Envelope]:
    """Of the well-formed ones."""
    return [message.envelope for message in messages if message.envelope is not None]


def ids_of(messages: Sequence[Delivery]) -> list[str]:
    return [message.envelope.id for message in messages if message.envelope is not None]


def _names_of(delivery: Delivery) -> dict[str, str | None]:
    """By which a log line can be found again."""
    if delivery.envelope is None:
        return {}
    return {"event_id": delivery.envelope.id, "correlation_id": delivery.envelope.correlation_id}


def _order_key(message: Delivery) -> tuple[str, str]:
    return message.topic, message.key or (message.envelope.key if message.envelope else "")


def _failure_key(message: Delivery) -> tuple[str, str]:
    return message.topic, message.envelope.id if message.envelope else ""


def _where_to_cut(part: Sequence[Delivery], error: Exception) -> int:
    """Just before the message to blame, if it is known, else in the middle; 0: the first one is to blame."""
    if isinstance(error, Poison):
        for place, message in enumerate(part):
            if message.envelope and message.envelope.id == error.event_id:
                return place
    return len(part) // 2


def _reason(error: Exception) -> str:
    text = error.reason if isinstance(error, Poison) else f"{type(error).__name__}: {error}"
    return text[:1_000]
