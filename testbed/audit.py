"""Wire the broker's audit reader and the ledger into the pure reconciliation, and follow single events.

Exit codes of `testbed audit`: 0 the two agree and every group has settled what it owes; 1 they do not; 2 it could not
be told, because messages are still on their way, or because the broker does not tell what consumers hold unacked.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from analysis.audit import Committed, Content, Logged, Reconciliation, reconcile
from core.domain.events import TICKET_APPLIED
from core.effects.table import Group
from core.messaging.envelope import Envelope
from core.messaging.ports import Admin, Broker, Delivery
from core.messaging.topology import DEAD_LETTER_GROUP
from core.outbox.storage import Depth, measure_depth
from core.queries.ledger import (
    BEGINNING,
    GroupAccount,
    Letters,
    account_of,
    count_letters,
    look_up,
    read_ledger,
    unsettled_ids,
)
from core.queries.way import Known, Moment, find_applications, find_events, read_way
from testbed.wiring import Database

CLOCKS_APART = timedelta(minutes=1)
"""How far the broker's clock may be behind the database's; what is read too much is passed over."""
SETTLES_S = 3.0
"""What is unsettled is looked at for so long, and longer where the broker tells late what consumers hold unacked."""

Progress = Callable[[str, int], None]
"""Told what is read and how many more of it."""


@dataclass(frozen=True)
class Standing:
    """One group: its account, and the events it owes although nothing is on its way to it."""

    account: GroupAccount
    lag_messages: int
    lost: Sequence[str]
    untold: Sequence[str]
    """Owed, and lost or held unacked by a consumer: this broker does not tell which."""


@dataclass(frozen=True)
class Audit:
    profile: str
    since: datetime | None
    began_at: datetime
    took_s: float
    log: Reconciliation
    groups: Mapping[str, Standing]
    outbox: Depth
    letters: Letters

    @property
    def is_broken(self) -> bool:
        return not self.log.is_whole or any(standing.lost for standing in self.groups.values())

    @property
    def is_settled(self) -> bool:
        """Nothing is on its way."""
        return self.log.waiting_events == 0 and all(
            standing.account.unsettled == len(standing.lost) and standing.lag_messages == 0
            for standing in self.groups.values()
        )

    @property
    def exit_code(self) -> int:
        return 1 if self.is_broken else 0 if self.is_settled else 2


def audit(
    database: Database,
    broker: Broker,
    groups: Mapping[str, Group],
    since: datetime | None = None,
    progress: Progress = lambda what, more: None,
) -> Audit:
    """Raises NotCapable where the broker keeps nothing, BrokerUnavailable, and the database's errors."""
    began_at, began_s = datetime.now(UTC), time.monotonic()
    admin = broker.admin()
    try:
        found = reconcile(
            _ledger(database, since, progress),
            _log(admin, broker.topology.topics, since, progress),
            lambda ids: {
                id_: content_of(envelope) for id_, envelope in look_up(database.engine, database.messaging, ids).items()
            },
        )
        standings = {
            group: _standing(database, admin, group, sorted(spec.takes), since or BEGINNING)
            for group, spec in sorted(groups.items())
        }
    finally:
        admin.close()
    with database.engine.connect() as connection:
        depth, letters = measure_depth(connection, database.messaging), count_letters(connection, database.messaging)
    return Audit(
        broker.capabilities.profile, since, began_at, time.monotonic() - began_s, found, standings, depth, letters
    )


def content_of(envelope: Envelope) -> Content:
    """In the order of `analysis.audit.FIELDS`, as text, alike from the database and from the wire."""
    return (
        envelope.topic,
        envelope.type,
        envelope.source,
        envelope.key,
        "" if envelope.sequence is None else str(envelope.sequence),
        str(envelope.schema_version),
        envelope.correlation_id or "",
        envelope.causation_id or "",
        envelope.occurred_at.astimezone(UTC).isoformat(),
        envelope.data.decode(errors="backslashreplace"),
    )


def follow(database: Database, broker: Broker, name: str) -> tuple[list[Known], list[Moment]]:
    """The way of all events that `name` speaks of, in the order in which it happened; the wire has no instants."""
    with database.engine.connect() as connection:
        events = find_events(connection, database.messaging, name)
        moments = read_way(connection, database.messaging, database.shop, events)
    wanted = {event.id for event in events}
    since = min((event.occurred_at for event in events), default=datetime.now(UTC)) - CLOCKS_APART
    moments += _on_the_wire(broker, {event.topic for event in events}, since, lambda envelope: envelope.id in wanted)
    return events, _in_order(events, moments)


def follow_phone(database: Database, broker: Broker, phone_hash: str) -> tuple[list[Known], list[Moment]]:
    """The same for all applications with a phone number; the whole log is searched too, for what the database lacks."""
    with database.engine.connect() as connection:
        events = find_applications(connection, database.messaging, phone_hash)
        moments = read_way(connection, database.messaging, database.shop, events)
    fragment = phone_hash.encode()
    moments += _on_the_wire(broker, {TICKET_APPLIED}, None, lambda envelope: fragment in envelope.data)
    return events, _in_order(events, moments)


def _in_order(events: Sequence[Known], moments: Sequence[Moment]) -> list[Moment]:
    place = {event.id: number for number, event in enumerate(events)}
    order = ("answered", "committed", "pending", "parked", "cleared", "on_the_wire")
    began = datetime.max.replace(tzinfo=UTC)

    def when(moment: Moment) -> tuple[int, bool, datetime, int]:
        is_early = moment.step in order
        number = order.index(moment.step) if is_early else len(order)
        return (place.get(moment.event_id, -1), not is_early, began if is_early else moment.at or began, number)

    return sorted(moments, key=when)


def _on_the_wire(
    broker: Broker, topics: Set[str], since: datetime | None, is_wanted: Callable[[Envelope], bool]
) -> Iterator[Moment]:
    if not broker.capabilities.retains_after_ack:
        return
    admin = broker.admin()
    try:
        for topic in sorted(topics & set(broker.topology.topics)):
            for found in admin.read_all(topic, since):
                if found.envelope is not None and is_wanted(found.envelope):
                    where = f"{found.topic} lane {found.lane} position {found.position}"
                    yield Moment(None, "on_the_wire", found.envelope.id, where)
    finally:
        admin.close()


def _ledger(database: Database, since: datetime | None, progress: Progress) -> Iterator[Committed]:
    for number, stored in enumerate(read_ledger(database.engine, database.messaging, since or BEGINNING), 1):
        yield Committed(stored.envelope.id, content_of(stored.envelope), stored.is_pending)
        if number % 1_000 == 0:
            progress("ledger", 1_000)


def _log(admin: Admin, topics: Sequence[str], since: datetime | None, progress: Progress) -> Iterator[Logged]:
    for topic in topics:
        begin = None if since is None else max(BEGINNING, since - CLOCKS_APART)
        for number, delivery in enumerate(admin.read_all(topic, begin), 1):
            envelope = delivery.envelope
            if since is None or envelope is None or envelope.occurred_at >= since:
                yield _logged(delivery)
            if number % 1_000 == 0:
                progress("log", 1_000)


def _logged(delivery: Delivery) -> Logged:
    envelope = delivery.envelope
    position = -1 if delivery.position is None else delivery.position
    if envelope is None:
        return Logged("", (), delivery.topic, delivery.lane, position, delivery.error)
    return Logged(envelope.id, content_of(envelope), delivery.topic, delivery.lane, position)


def _standing(database: Database, admin: Admin, group: str, types: Sequence[str], since: datetime) -> Standing:
    """Unsettled, nothing owed by the broker, and still unsettled once all that consumers may hold unacked would have
    been counted: then it is lost."""
    began_s = time.monotonic()

    def unsettled() -> list[str]:
        with database.engine.connect() as connection:
            return unsettled_ids(connection, database.messaging, group, types, since)

    def lag() -> tuple[int, float | None]:
        """Messages that the broker owes the group, dead letters too, and how late it tells."""
        lags = [lag for name in (group, DEAD_LETTER_GROUP) for lag in admin.lag(name).values()]
        delays_s = [lag.unacked_told_after_s for lag in lags]
        told_after_s = None if None in delays_s else max([each for each in delays_s if each is not None], default=0.0)
        return sum(lag.lag_messages for lag in lags), told_after_s

    suspects = unsettled()
    owed, told_after_s = lag()
    while suspects and not owed and time.monotonic() - began_s < max(SETTLES_S, told_after_s or 0.0):
        time.sleep(0.2)
        still = set(unsettled())
        suspects = [id_ for id_ in suspects if id_ in still]
        owed, told_after_s = lag()
    with database.engine.connect() as connection:
        account = account_of(connection, database.messaging, group, types, since)
    if owed:
        return Standing(account, owed, [], [])
    return Standing(account, owed, [], suspects) if told_after_s is None else Standing(account, owed, suspects, [])


def as_json(found: Audit) -> dict[str, Any]:
    """What `testbed audit --json` prints and GET /admin/audit answers."""
    log = found.log
    return {
        "profile": found.profile,
        "since": found.since.isoformat() if found.since else None,
        "beganAt": found.began_at.isoformat(),
        "tookS": round(found.took_s, 3),
        "exitCode": found.exit_code,
        "ledgerEvents": log.ledger_events,
        "waitingEvents": log.waiting_events,
        "parkedKeys": found.outbox.parked_keys,
        "logMessages": log.log_messages,
        "copies": log.copies,
        "missing": [event._asdict() for event in log.missing],
        "extra": [event._asdict() for event in log.extra],
        "differing": [event._asdict() for event in log.differing],
        "malformed": [
            {"topic": m.topic, "lane": m.lane, "position": m.position, "error": m.error} for m in log.malformed
        ],
        "lanes": [
            {"topic": topic, "lane": lane, **span._asdict()} for (topic, lane), span in sorted(log.lanes.items())
        ],
        "ledgerDigest": log.ledger_digest,
        "logDigest": log.log_digest,
        "groups": {
            group: {
                **standing.account._asdict(),
                "lagMessages": standing.lag_messages,
                "lost": list(standing.lost),
                "untold": list(standing.untold),
            }
            for group, standing in found.groups.items()
        },
        "deadLetters": {**found.letters._asdict(), "open": found.letters.open},
    }
