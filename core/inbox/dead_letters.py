"""What becomes of a message that was given up: its row in `failed_event` is the record, and it can be redone there.

The dead-letter service moves letters from `<topic>.DLQ` into the table, each (topic, group, event id) once. Redoing a
letter runs its group's handler on the row; the effect, the inbox row and the closed letter are one transaction, and
nothing goes back to the broker: so no other group sees it again, and the second redo finds a closed letter.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Engine, RowMapping, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from core.inbox.handlers import Decode, EventSink, GroupHandler, one_by_one
from core.inbox.letters import clean, envelope_of, row_of
from core.inbox.retries import is_transient
from core.inbox.worker import Stop
from core.inbox.writing import GroupWriting
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure, Subscriber
from core.messaging.topology import DEAD_LETTER_GROUP, DEAD_LETTER_SUFFIX
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)


class DeadLetterService:
    """Reads all dead-letter topics as the group `dead-letter-service`; keeps also what it cannot read."""

    def __init__(
        self,
        engine: Engine,
        tables: MessagingTables,
        subscriber: Subscriber,
        probe: Probe | None = None,
        *,
        batch_messages: int = 500,
        receive_timeout_s: float = 0.5,
    ) -> None:
        self._engine = engine
        self._failed_event = tables.failed_event
        self._subscriber = subscriber
        self._probe = probe or NoProbe()
        self._batch_messages = batch_messages
        self._receive_timeout_s = receive_timeout_s

    def run(self, stop: Stop) -> None:
        """Until `stop` is set. While the database is away the letters stay with the broker."""
        while not stop.is_set():
            deliveries = self._subscriber.receive(self._batch_messages, self._receive_timeout_s)
            tries = 0
            while deliveries:
                try:
                    self.record(deliveries)
                    break
                except Exception as error:
                    if not is_transient(error):
                        raise
                    tries += 1
                    log.warning("database failed, letters wait", extra={"messages": len(deliveries), "tries": tries})
                if stop.wait(min(2.0, 0.05 * 2 ** min(tries, 6))):
                    return

    def step(self) -> int:
        """One batch; how many letters were received."""
        deliveries = self._subscriber.receive(self._batch_messages, self._receive_timeout_s)
        if deliveries:
            self.record(deliveries)
        return len(deliveries)

    def record(self, deliveries: Sequence[Delivery]) -> None:
        """Rows first, then the ack."""
        rows = [_row(delivery) for delivery in deliveries]
        ids = [delivery.envelope.id for delivery in deliveries if delivery.envelope]
        keep = insert(self._failed_event).on_conflict_do_nothing().returning(self._failed_event.c.consumer_group)
        with self._engine.begin() as connection:
            new = connection.execute(keep, rows).scalars().all()
        if new:
            log.error(
                "dead letters were kept, someone must act: testbed dlq list",
                extra={"letters": len(new), "groups": sorted(set(new))},
            )
        self._probe.reach(Step.APPLIED, ids, group=DEAD_LETTER_GROUP, outcomes=["applied"] * len(ids))
        self._subscriber.ack(deliveries)
        self._probe.reach(Step.ACKED, ids, group=DEAD_LETTER_GROUP)


class CannotRedo(Exception):
    """There is no such letter: nothing was done."""


class Redone(StrEnum):
    REDONE = "redone"
    """The effect is applied and the letter closed."""
    CLOSED = "closed"
    """It was closed before, or applied before: nothing was done but closing it."""
    FAILED = "failed"
    """The handler still cannot apply it: nothing changed but the reason."""
    MALFORMED = "malformed"
    """It never was an event: no handler can take it."""
    UNHANDLED = "unhandled"
    """Nobody here handles its group: nothing was done."""


class Answer(NamedTuple):
    letter_id: int
    outcome: Redone
    reason: str = ""


@dataclass(frozen=True)
class GroupSetup:
    """What the group's worker was built with."""

    handler: GroupHandler
    sink: EventSink | None = None
    decode: Decode | None = None
    takes: frozenset[str] | None = None
    """Its event types; None: all. A letter of another type was given up as unknown: once known, it is ignored."""

    def handler_of(self, event_type: str) -> GroupHandler:
        return self.handler if self.takes is None or event_type in self.takes else one_by_one({})


def list_letters(
    engine: Engine,
    tables: MessagingTables,
    topic: str | None = None,
    group: str | None = None,
    limit: int = 100,
    *,
    with_redone: bool = False,
) -> Sequence[RowMapping]:
    """Letters, oldest first, at most `limit`; those that were redone only if asked for."""
    letter = tables.failed_event.c
    query = _chosen(select(tables.failed_event), tables, topic, group)
    if not with_redone:
        query = query.where(letter.redone_at.is_(None))
    with engine.connect() as connection:
        return connection.execute(query.order_by(letter.id).limit(limit)).mappings().all()


def places_of_letters(engine: Engine, tables: MessagingTables) -> tuple[set[str], set[str]]:
    """Topics and groups that have letters, redone ones too."""
    letter = tables.failed_event.c
    with engine.connect() as connection:
        rows = connection.execute(select(letter.topic, letter.consumer_group).distinct()).all()
    return {topic for topic, _ in rows}, {group for _, group in rows}


def show_letter(engine: Engine, tables: MessagingTables, letter_id: int) -> RowMapping | None:
    with engine.connect() as connection:
        query = select(tables.failed_event).where(tables.failed_event.c.id == letter_id)
        return connection.execute(query).mappings().one_or_none()


def redo(
    engine: Engine,
    tables: MessagingTables,
    letter_id: int,
    groups: Mapping[str, GroupSetup],
    probe: Probe | None = None,
) -> Answer:
    """Handle one letter again, for its group alone. Raises CannotRedo, and what
    `is_transient`: then nothing is known to have changed, and it may be called again."""
    letter = tables.failed_event
    envelope: Envelope | None = None
    try:
        with engine.begin() as connection:
            row = (
                connection.execute(select(letter).where(letter.c.id == letter_id).with_for_update())
                .mappings()
                .one_or_none()
            )
            if row is None:
                raise CannotRedo(f"there is no dead letter {letter_id}; see `testbed dlq list`")
            if row["redone_at"] is not None:
                return Answer(letter_id, Redone.CLOSED, f"closed at {row['redone_at']:%Y-%m-%d %H:%M:%S}")
            envelope = envelope_of(dict(row))
            if envelope is None:
                return Answer(letter_id, Redone.MALFORMED, row["reason"])
            setup = groups.get(row["consumer_group"])
            if setup is None:
                known = ", ".join(sorted(groups))
                reason = f"group {row['consumer_group']!r} is not known here; the groups there are: {known}"
                return Answer(letter_id, Redone.UNHANDLED, reason)
            writing = GroupWriting(
                tables,
                row["consumer_group"],
                setup.handler_of(envelope.type),
                probe=probe,
                sink=setup.sink,
                decode=setup.decode,
            )
            written = writing.write(connection, [envelope])
            connection.execute(update(letter).where(letter.c.id == letter_id).values(redone_at=func.clock_timestamp()))
    except CannotRedo:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        reason = clean(f"{type(error).__name__}: {error}")[:1_000]
        log.warning(
            "dead letter failed again",
            extra={
                "letter": letter_id,
                "reason": reason,
                "event_id": envelope.id if envelope else None,
                "correlation_id": envelope.correlation_id if envelope else None,
            },
        )
        _note_failure(engine, tables, letter_id, reason)
        return Answer(letter_id, Redone.FAILED, reason)
    writing.committed(written)
    if not written.ids:
        return Answer(letter_id, Redone.CLOSED, "its event had been applied already")
    return Answer(letter_id, Redone.REDONE)


def redo_all(
    engine: Engine,
    tables: MessagingTables,
    groups: Mapping[str, GroupSetup],
    topic: str | None = None,
    group: str | None = None,
    limit: int = 100,
    probe: Probe | None = None,
) -> list[Answer]:
    """Redo up to `limit` open letters, oldest first, each in its own transaction.

    After one that fails, later letters of its key are left: they would overtake it.
    """
    answers: list[Answer] = []
    stuck: set[tuple[Any, ...]] = set()
    for row in list_letters(engine, tables, topic, group, limit):
        key = (row["topic"], row["consumer_group"], row["key"])
        if key in stuck and row["event_type"] is not None:
            continue
        answer = redo(engine, tables, row["id"], groups, probe)
        if answer.outcome is Redone.FAILED:
            stuck.add(key)
        answers.append(answer)
    return answers


def _row(delivery: Delivery) -> dict[str, Any]:
    now = datetime.now(UTC)
    failure = delivery.failure or Failure(delivery.error or "came without a reason", 0, now, now)
    topic = delivery.origin_topic or delivery.topic.removesuffix(DEAD_LETTER_SUFFIX)
    return row_of(delivery, topic, delivery.failed_group or "", failure)


def _chosen(query: Select[Any], tables: MessagingTables, topic: str | None, group: str | None) -> Select[Any]:
    if topic is not None:
        query = query.where(tables.failed_event.c.topic == topic)
    if group is not None:
        query = query.where(tables.failed_event.c.consumer_group == group)
    return query


def _note_failure(engine: Engine, tables: MessagingTables, letter_id: int, reason: str) -> None:
    letter = tables.failed_event
    with engine.begin() as connection:
        connection.execute(
            update(letter)
            .where(letter.c.id == letter_id)
            .values(attempts=letter.c.attempts + 1, last_failed_at=func.clock_timestamp(), reason=reason)
        )
