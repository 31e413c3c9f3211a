"""Which keys wait behind a dead letter? Only with `after_dead_letter="wait"`: order matters more than progress.

The letter's row is then written by the worker itself, before the broker gets the letter: so a worker which takes the
lane over, or starts again, sees it. Every later message of the key becomes a letter too, until all are redone.
A malformed message holds nothing: nobody could redo it.
"""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from core.inbox.letters import key_of, row_of
from core.messaging.ports import Delivery, Failure
from core.storage.tables import MessagingTables


class KeyHeld(Exception):
    """An earlier message of this key is a dead letter that was not redone: this one becomes a letter behind it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"an earlier message of key {key} is a dead letter and was not redone yet")


class Holding(Protocol):
    def hold(self, engine: Engine, delivery: Delivery, failure: Failure) -> None:
        """Remember, durably, that this letter holds its key."""

    def split(
        self, connection: Connection, messages: Sequence[Delivery]
    ) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Messages that may be applied, and messages whose key is held."""


class NothingHeld:
    """`after_dead_letter="follow"`: costs nothing."""

    def hold(self, engine: Engine, delivery: Delivery, failure: Failure) -> None:
        return None

    def split(
        self, connection: Connection, messages: Sequence[Delivery]
    ) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        return messages, ()


class HeldKeys:
    """`after_dead_letter="wait"`: one look-up a batch."""

    def __init__(self, tables: MessagingTables, group: str) -> None:
        self._tables = tables
        self._group = group

    def hold(self, engine: Engine, delivery: Delivery, failure: Failure) -> None:
        row = row_of(delivery, delivery.topic, self._group, failure)
        with engine.begin() as connection:
            connection.execute(insert(self._tables.failed_event).on_conflict_do_nothing(), row)

    def split(
        self, connection: Connection, messages: Sequence[Delivery]
    ) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        failed_event = self._tables.failed_event
        keys = {key_of(message.envelope.key) for message in messages if message.envelope}
        waiting = connection.execute(
            select(failed_event.c.topic, failed_event.c.key)
            .where(failed_event.c.consumer_group == self._group, failed_event.c.redone_at.is_(None))
            .where(failed_event.c.key.in_(keys), failed_event.c.event_type.is_not(None))
            .distinct()
        ).all()
        if not waiting:
            return messages, ()
        held_keys = {(topic, key) for topic, key in waiting}
        held = [m for m in messages if m.envelope and (m.topic, key_of(m.envelope.key)) in held_keys]
        # A repeat of what was applied before the letter is no letter.
        applied = self._applied(connection, held)
        held = [m for m in held if m.envelope and m.envelope.id not in applied]
        tokens = {id(message) for message in held}
        return [message for message in messages if id(message) not in tokens], held

    def _applied(self, connection: Connection, messages: Sequence[Delivery]) -> set[str]:
        inbox = self._tables.inbox
        ids = [message.envelope.id for message in messages if message.envelope]
        known = connection.execute(
            select(inbox.c.event_id).where(inbox.c.consumer_group == self._group, inbox.c.event_id.in_(ids))
        )
        return {str(id) for id in known.scalars()}
