"""What a consumer group does with the messages it was handed for the first time: the shape of a handler.

A group has one handler. It is called inside the inbox transaction with all new envelopes of a batch, in order, across
event types, so that order within an aggregate is kept; it writes its rows with a few set-based statements and says
what it did for each envelope:

    def count_likes(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        changes = Counter()
        results: list[Done] = []
        for envelope in envelopes:
            product = json.loads(envelope.data)
            if product["delta"] == 0:
                results.append(Ignored("nothing changes"))
                continue
            changes[envelope.key] += product["delta"]
            results.append("likes")
        connection.execute(ADD_LIKES, [{"id": id, "delta": changes[id]} for id in sorted(changes)])  # in key order
        return HandlerResult(results)

A handler makes no outside call (see `outside`), does not commit, and changes rows that other groups or workers also
change in key order, one statement a table: else two workers deadlock more often than needed. It may be called again
for the same envelopes, after a rollback; so it keeps nothing outside the connection.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from sqlalchemy import Connection

from core.messaging.envelope import Envelope


class Ignored(NamedTuple):
    """The envelope was understood and changes nothing; `reason` is kept in its inbox row."""

    reason: str


Done: TypeAlias = str | tuple[str, ...] | Ignored
"""What became of one envelope: the name of its effect (usually one), the names of several, or why none."""


class HandlerResult(NamedTuple):
    done: Sequence[Done]
    """One entry an envelope, in the order handed in."""
    publish: Sequence[Envelope] = ()
    """Next events: they go through the outbox in the same transaction, in this order."""


GroupHandler: TypeAlias = Callable[[Connection, Sequence[Envelope]], HandlerResult]
"""Raises `Poison` for an envelope which can never be applied. Any other error makes the worker find the one bad
envelope (savepoints) and try that again later; deadlocks and lost connections repeat the whole batch, uncounted."""

OneHandler: TypeAlias = Callable[[Connection, Envelope], "Done | HandlerResult"]
"""For one envelope: says what it did, or a `HandlerResult` with one entry if it publishes too."""

Decode: TypeAlias = Callable[[Envelope], Envelope]
"""Called before the handler: returns the envelope as the handler shall see it (an older schema lifted to the newest),
raises `Poison` for an unknown type or a newer schema version. It leaves the id alone."""


class Poison(Exception):
    """This message can never be applied: it becomes a dead letter at once, without further tries."""

    def __init__(self, event_id: str, reason: str) -> None:
        super().__init__(reason)
        self.event_id = event_id
        self.reason = reason


class HandlerBroken(Exception):
    """The handler answered with another number of entries than it was handed envelopes: nothing was applied."""

    def __init__(self, group: str, envelopes: int, entries: int) -> None:
        super().__init__(f"the handler of {group} was handed {envelopes} envelopes and answered for {entries}")


class EventSink(Protocol):
    """Where next events go: the outbox, or a direct publisher in an ablation."""

    def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        """Inside the transaction."""

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        """After the commit: ring the doorbell. Must not raise: what was committed stays so."""


class NoSink:
    """For groups that publish nothing; raises if one does."""

    def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        raise TypeError(f"the handler published {envelopes[0].type}, but its worker was given no event sink")

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        return None


def one_by_one(handlers: Mapping[str, OneHandler]) -> GroupHandler:
    """A group handler from a table event type -> function of one envelope: simple, and slower than a set-based one.

    A type without a function is ignored, with that reason.
    """

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        done: list[Done] = []
        publish: list[Envelope] = []
        for envelope in envelopes:
            handler = handlers.get(envelope.type)
            answer = handler(connection, envelope) if handler else Ignored(f"no handler for {envelope.type}")
            if isinstance(answer, HandlerResult):
                done.extend(answer.done)
                publish.extend(answer.publish)
            else:
                done.append(answer)
        return HandlerResult(done, publish)

    return handle


def known_types(newest: Mapping[str, int]) -> Decode:
    """A `Decode` that refuses types outside `newest` (event type -> newest schema version) and newer versions."""

    def decode(envelope: Envelope) -> Envelope:
        version = newest.get(envelope.type)
        if version is None:
            raise Poison(envelope.id, f"unknown event type {envelope.type}")
        if envelope.schema_version > version:
            raise Poison(envelope.id, f"{envelope.type} version {envelope.schema_version} is newer than {version}")
        return envelope

    return decode
