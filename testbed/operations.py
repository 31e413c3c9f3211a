"""What people on call can do to a running system; the command line and the admin endpoints both go through here."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from core.api.problems import CannotDo
from core.commands.context import Context
from core.commands.payments import tell_untold
from core.inbox.dead_letters import Answer, Redone, places_of_letters, redo, redo_all
from core.inbox.replay import Replay, forget, replay
from core.journey import Probe
from core.messaging.errors import NotCapable
from core.messaging.ports import Broker
from core.outbox.rows import EventSink
from core.outbox.storage import requeue
from core.queries.ledger import count_letters
from core.queries.way import Known, Moment
from testbed import audit as auditing
from testbed import wiring
from testbed.settings import Settings


class ShopOperations:
    """Implements `core.api.admin.Operations` for one system. Safe from several threads."""

    def __init__(
        self, settings: Settings, database: wiring.Database, broker: Broker, sink: EventSink, probe: Probe
    ) -> None:
        self._database = database
        self._broker = broker
        self._groups = wiring.groups(settings)
        self._setups = wiring.group_setups(settings, database, sink)
        self._probe = probe
        self._claims_kept_for = timedelta(seconds=settings.retention_claims_s)
        self._context = Context(database.engine, database.shop, sink)

    def retry_letters(self, stream: str | None, group: str | None, limit: int) -> dict[str, Any]:
        """Each letter in a transaction of its own, oldest first; what is still broken stays with its new reason."""
        if group is not None:
            self._known(group)
        topic = None if stream is None else self.topic_of(stream)
        engine, tables = self._database.engine, self._database.messaging
        return self._told(redo_all(engine, tables, self._setups, topic, group, limit, self._probe))

    def retry_these(self, letters: Sequence[int]) -> dict[str, Any]:
        """Raises CannotRedo for a letter that is not there: those before it are redone."""
        engine, tables = self._database.engine, self._database.messaging
        return self._told([redo(engine, tables, letter, self._setups, self._probe) for letter in letters])

    def _told(self, answers: Sequence[Answer]) -> dict[str, Any]:
        with self._database.engine.connect() as connection:
            left = count_letters(connection, self._database.messaging).open
        told = Counter(answer.outcome for answer in answers)
        return {
            **{str(outcome): told[outcome] for outcome in Redone},
            "left": left,
            "letters": [
                {"id": a.letter_id, "outcome": str(a.outcome), "reason": a.reason}
                for a in answers
                if a.outcome is not Redone.REDONE
            ],
        }

    def requeue(self, keys: Sequence[str] | None) -> int:
        with self._database.engine.begin() as connection:
            return requeue(connection, self._database.messaging, keys)

    def repair_payments(self, since: datetime) -> list[str]:
        """The ids of the orders made since then whose payment lacked its newest event; that is now written."""
        told: list[str] = []
        while more := tell_untold(self._context, self._database.messaging, since):
            told += more
        return told

    def audit(self, since: datetime | None) -> dict[str, Any]:
        try:
            return auditing.as_json(self.audit_all(since))
        except NotCapable as error:
            raise CannotDo(f"{error}: without an audit log there is nothing to compare; set AUDIT=true") from error

    def audit_all(
        self, since: datetime | None, progress: auditing.Progress = lambda what, more: None
    ) -> auditing.Audit:
        """As `testbed.audit` says it. Raises NotCapable and BrokerUnavailable."""
        return auditing.audit(self._database, self._broker, self._groups, since, progress)

    def follow(self, name: str) -> dict[str, Any]:
        return self._way(*auditing.follow(self._database, self._broker, name))

    def follow_phone(self, phone_hash: str) -> dict[str, Any]:
        return self._way(*auditing.follow_phone(self._database, self._broker, phone_hash))

    @staticmethod
    def _way(events: Sequence[Known], moments: Sequence[Moment]) -> dict[str, Any]:
        return {
            "events": [{**event._asdict(), "occurred_at": event.occurred_at.isoformat()} for event in events],
            "moments": [{**m._asdict(), "at": m.at.isoformat() if m.at else None} for m in moments],
        }

    def replay(
        self,
        group: str,
        event_ids: Sequence[str] | None,
        since: datetime | None,
        from_beginning: bool,
        source: Literal["events", "broker"],
    ) -> dict[str, Any]:
        self._known(group)
        if source == "broker":
            return self._replay_by_the_broker(group, event_ids, since, from_beginning)
        if from_beginning:
            self._forget(group)
        done = self._replay_events(group, event_ids, since)
        return {
            "group": group,
            "source": source,
            "applied": done.applied,
            "passedOver": done.passed_over,
            "failed": [failed._asdict() for failed in done.failed],
        }

    def _replay_events(self, group: str, event_ids: Sequence[str] | None, since: datetime | None) -> Replay:
        return replay(
            self._database.engine,
            self._database.messaging,
            group,
            self._setups[group],
            self._groups[group].takes,
            event_ids=event_ids,
            since=since,
            probe=self._probe,
        )

    def _replay_by_the_broker(
        self, group: str, event_ids: Sequence[str] | None, since: datetime | None, from_beginning: bool
    ) -> dict[str, Any]:
        if event_ids is not None:
            raise CannotDo("a broker goes back to an instant, not to single events; leave the source at `events`")
        if from_beginning:
            self._own_tables(group)
        elif since is not None and since < datetime.now(UTC) - self._claims_kept_for:
            days = self._claims_kept_for.total_seconds() / 86_400
            raise CannotDo(
                f"what a group handled is known for {days:g} days (RETENTION_CLAIMS_S): further back the broker would "
                "have it applied twice. Name a later instant; the source `events` applies only what it never applied"
            )
        admin = self._broker.admin()
        try:
            # First the position, which is refused while members are connected: then nothing is handled in between.
            admin.replay(group, since)
        except NotCapable as error:
            raise CannotDo(f"{error}. The source `events` replays from the event table instead") from error
        finally:
            admin.close()
        if from_beginning:
            self._forget(group)
        return {"group": group, "source": "broker", "moved": True, "then": f"start `testbed consume {group}`"}

    def _forget(self, group: str) -> None:
        own = self._own_tables(group)
        with self._database.engine.begin() as connection:
            forget(connection, self._database.messaging, group, own)

    def _own_tables(self, group: str) -> Sequence[Any]:
        own_tables = self._groups[group].own_tables
        if own_tables is None:
            raise CannotDo(
                f"the effects of {group} cannot be recomputed from the beginning: they moved stock, money or mail. "
                "Name event ids or an instant: then what it never applied is applied"
            )
        return own_tables(self._database.shop)

    def topic_of(self, name: str) -> str:
        """The topic meant, as `Topology.topic_of` reads a name, or one that only letters still know.

        Raises CannotDo: what neither knows is a slip of the pen, which would find nothing without a word.
        """
        kept, _ = places_of_letters(self._database.engine, self._database.messaging)
        topology = self._broker.topology
        topic = name if name in kept else topology.topic_of(name)
        if topic is None:
            raise _no("topic", name, sorted(kept.union(topology.topics)))
        return topic

    def group_of_letters(self, name: str) -> str:
        """A group of this code, or one that only letters still know. Raises CannotDo."""
        _, kept = places_of_letters(self._database.engine, self._database.messaging)
        if name not in kept.union(self._groups):
            raise _no("consumer group", name, sorted(kept.union(self._groups)))
        return name

    def _known(self, group: str) -> None:
        if group not in self._groups:
            raise _no("consumer group", group, self._groups)


def _no(what: str, name: str, known: Iterable[str]) -> CannotDo:
    return CannotDo(f"no {what} {name!r}; use one of {', '.join(known)}")
