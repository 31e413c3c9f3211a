"""One event's way as the database knows it: request, commit, outbox, each group's inbox and effects, dead letters."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from core.storage.shop import ShopTables
from core.storage.tables import MessagingTables

MOST_EVENTS = 200


_COLUMNS = (
    "CAST(event_id AS text), topic, event_type, aggregate_id, sequence, correlation_id, causation_id, occurred_at"
)


class Moment(NamedTuple):
    at: datetime | None
    step: str
    """A word of `core.journey`, or pending, parked, on_the_wire, dead_lettered, redone, called_outside."""
    event_id: str
    """Empty: it speaks of the request."""
    what: str


class Known(NamedTuple):
    """One event, as far as it must be known to find it on the wire."""

    id: str
    topic: str
    type: str
    key: str
    sequence: int | None
    correlation_id: str | None
    causation_id: str | None
    occurred_at: datetime


def find_events(connection: Connection, tables: MessagingTables, name: str) -> list[Known]:
    """Events that `name` speaks of (an event id, an aggregate's id, a correlation id) and all that share their
    correlation ids: at most 200, in the outbox's order."""
    event = tables.event.fullname
    rows = connection.execute(
        text(
            f"WITH named AS (SELECT id, correlation_id FROM {event} WHERE CAST(event_id AS text) = :name "
            "OR aggregate_id = :name OR correlation_id = :name) "
            f"SELECT {_COLUMNS} FROM {event} WHERE id IN (SELECT id FROM named) "
            "OR correlation_id IN (SELECT correlation_id FROM named) ORDER BY id LIMIT :rows"
        ),
        {"name": name.lower() if len(name) == 36 else name, "rows": MOST_EVENTS},
    )
    return [Known(*row) for row in rows]


def find_applications(connection: Connection, tables: MessagingTables, phone_hash: str) -> list[Known]:
    """Applications for tickets with this phone number, by its hash; at most 200. Reads all of that type."""
    found = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM {tables.event.fullname} WHERE event_type = 'TicketApplied' "
            "AND CAST(payload AS jsonb) ->> 'phoneHash' = :hash ORDER BY id LIMIT :rows"
        ),
        {"hash": phone_hash, "rows": MOST_EVENTS},
    )
    return [Known(*row) for row in found]


def read_way(
    connection: Connection, tables: MessagingTables, shop: ShopTables, events: Sequence[Known]
) -> list[Moment]:
    """Everything on record of these events, in no order."""
    ids = [event.id for event in events]
    moments = [Moment(event.occurred_at, "committed", event.id, _committed(event)) for event in events]
    moments += _requests(connection, shop, events)
    moments += _outbox(connection, tables, ids, min((e.occurred_at for e in events), default=None))
    moments += _inbox(connection, tables, ids)
    moments += _letters(connection, tables, ids)
    moments += _outside_calls(connection, shop, ids)
    return moments


def _committed(event: Known) -> str:
    version = "" if event.sequence is None else f" version {event.sequence}"
    cause = f", caused by {event.causation_id}" if event.causation_id else ""
    return f"{event.type} of {event.key}{version}, correlation {event.correlation_id or 'none'}{cause}"


def _requests(connection: Connection, shop: ShopTables, events: Sequence[Known]) -> list[Moment]:
    request = shop.request.c
    rows = connection.execute(
        text(
            f"SELECT answered_at, caller, idempotency_key, status, resource_id FROM {shop.request.fullname} "
            "WHERE resource_id = ANY(:keys) AND idempotency_key = ANY(:correlations)"
        ).columns(request.answered_at),
        {
            "keys": sorted({event.key for event in events}),
            "correlations": sorted({event.correlation_id for event in events if event.correlation_id}),
        },
    )
    return [
        Moment(at, "answered", "", f"{status} to {who}, key {key}, made {made}") for at, who, key, status, made in rows
    ]


def _outbox(
    connection: Connection, tables: MessagingTables, ids: Sequence[str], since: datetime | None
) -> list[Moment]:
    event, pending, cleared = tables.event.fullname, tables.pending.fullname, tables.cleared.fullname
    waiting = connection.execute(
        text(
            "SELECT CAST(e.event_id AS text), p.attempts, p.last_error, p.parked_at "
            f"FROM {pending} p JOIN {event} e ON e.id = p.id WHERE e.event_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"ids": list(ids)},
    )
    moments = [
        Moment(
            parked_at,
            "parked" if parked_at else "pending",
            id_,
            f"in the outbox after {attempts} refusal(s){': ' + error if error else ''}",
        )
        for id_, attempts, error, parked_at in waiting
    ]
    gone = connection.execute(
        text(
            f"SELECT CAST(e.event_id AS text), c.cleared_at FROM {event} e "
            f"JOIN {cleared} c ON c.cleared_at >= :since AND c.event_ids @> ARRAY[e.id] "
            "WHERE e.event_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"ids": list(ids), "since": since},
    )
    return moments + [Moment(at, "cleared", id_, "confirmed by the broker, left the outbox") for id_, at in gone]


def _inbox(connection: Connection, tables: MessagingTables, ids: Sequence[str]) -> list[Moment]:
    rows = connection.execute(
        text(
            "SELECT CAST(i.event_id AS text), i.handled_at, i.consumer_group, i.outcome, i.reason, "
            f"(SELECT string_agg(f.effect, ', ' ORDER BY f.applied_no) FROM {tables.effect.fullname} f "
            "WHERE f.consumer_group = i.consumer_group AND f.event_id = i.event_id) "
            f"FROM {tables.inbox.fullname} i WHERE i.event_id = ANY(CAST(:ids AS uuid[]))"
        ),
        {"ids": list(ids)},
    )
    return [
        Moment(at, outcome, id_, f"{group}: {reason or effects or 'no effect on record'}")
        for id_, at, group, outcome, reason, effects in rows
    ]


def _letters(connection: Connection, tables: MessagingTables, ids: Sequence[str]) -> list[Moment]:
    rows = connection.execute(
        text(
            "SELECT event_id, last_failed_at, redone_at, consumer_group, attempts, reason, id "
            f"FROM {tables.failed_event.fullname} WHERE event_id = ANY(:ids)"
        ),
        {"ids": list(ids)},
    )
    moments = []
    for id_, failed_at, redone_at, group, attempts, reason, letter in rows:
        moments.append(
            Moment(failed_at, "dead_lettered", id_, f"{group}: letter {letter} after {attempts} tries: {reason}")
        )
        if redone_at is not None:
            moments.append(Moment(redone_at, "redone", id_, f"{group}: letter {letter} closed"))
    return moments


def _outside_calls(connection: Connection, shop: ShopTables, ids: Sequence[str]) -> list[Moment]:
    moments = []
    for table in shop.outside_calls:
        rows = connection.execute(
            text(f"SELECT event_id, sent_at, status, calls FROM {table.fullname} WHERE event_id = ANY(:ids)"),
            {"ids": list(ids)},
        )
        for id_, sent_at, status, calls in rows:
            moments.append(Moment(sent_at, "called_outside", id_, f"{table.name}: {status} after {calls} call(s)"))
    return moments
