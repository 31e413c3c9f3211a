"""What happens inside the inbox transaction: claim, handle, keep each outcome. Who begins and commits it: `worker`,
and `dead_letters` for a letter that is redone."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from sqlalchemy import Connection

from core.inbox.claims import Claims
from core.inbox.handlers import Decode, Done, EventSink, GroupHandler, HandlerBroken, Ignored, NoSink
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.storage.tables import MessagingTables


class Written(NamedTuple):
    """What a transaction holds: one outcome an id (`applied` or `ignored`), and the next events."""

    ids: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    publish: Sequence[Envelope] = ()
    ignored: Sequence[tuple[str, Ignored]] = ()

    def and_then(self, more: "Written") -> "Written":
        return Written(
            [*self.ids, *more.ids],
            [*self.outcomes, *more.outcomes],
            [*self.publish, *more.publish],
            [*self.ignored, *more.ignored],
        )


class GroupWriting:
    """One group's handler with everything its transaction writes."""

    def __init__(
        self,
        tables: MessagingTables,
        group: str,
        handler: GroupHandler,
        *,
        probe: Probe | None = None,
        sink: EventSink | None = None,
        decode: Decode | None = None,
        journal: bool = True,
    ) -> None:
        self.group = group
        self.claims = Claims(tables, group)
        self.handler = handler
        self.probe = probe or NoProbe()
        self.sink = sink or NoSink()
        self.decode = decode
        self.has_journal = journal

    def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> Written:
        """In the caller's transaction: claim what is new, have it handled, keep the outcome of each."""
        fresh = self.claims.claim(connection, envelopes) if envelopes else ()
        if not fresh:
            return Written()
        ids = [envelope.id for envelope in fresh]
        self.probe.reach(Step.CLAIMED, ids, group=self.group)
        written = self.write_effects(connection, fresh)
        self.probe.reach(Step.EFFECTED, ids, group=self.group)
        return written

    def write_effects(self, connection: Connection, fresh: Sequence[Envelope]) -> Written:
        """The handler's rows, the journal, why something was ignored, the next events. Claims nothing."""
        ids = [envelope.id for envelope in fresh]
        seen = [self.decode(envelope) for envelope in fresh] if self.decode else fresh
        result = self.handler(connection, seen)
        if len(result.done) != len(fresh):
            raise HandlerBroken(self.group, len(fresh), len(result.done))
        effects, ignored = _split(ids, result.done)
        self.claims.ignore(connection, ignored)
        if self.has_journal:
            self.claims.journal(connection, effects)
        if result.publish:
            self.sink.write(connection, result.publish)
        not_applied = {id for id, _ in ignored}
        outcomes = ["ignored" if id in not_applied else "applied" for id in ids] if ignored else ["applied"] * len(ids)
        return Written(ids, outcomes, result.publish, ignored)

    def committed(self, written: Written) -> None:
        """After the commit: the relay may be woken, and the history may say that it was applied."""
        if written.publish:
            self.sink.after_commit(written.publish)
        if written.ids:
            self.probe.reach(Step.APPLIED, written.ids, group=self.group, outcomes=written.outcomes)


def _split(ids: Sequence[str], done: Sequence[Done]) -> tuple[list[tuple[str, str]], list[tuple[str, Ignored]]]:
    """(event id, effect name) for each effect, and why the others were ignored."""
    if set(map(type, done)) == {str}:
        return cast(list[tuple[str, str]], list(zip(ids, done, strict=True))), []
    effects: list[tuple[str, str]] = []
    ignored: list[tuple[str, Ignored]] = []
    for id, what in zip(ids, done, strict=True):
        if isinstance(what, Ignored):
            ignored.append((id, what))
        else:
            effects.extend((id, name) for name in ((what,) if isinstance(what, str) else what))
    return effects, ignored
