"""What the database says of all events: their content, and how far each consumer group is with them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from core.messaging.envelope import Envelope
from core.storage.event_store import event_as_envelope
from core.storage.tables import MessagingTables

BEGINNING, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Whatever its offset from UTC, an instant between them has a place on the clock of either broker."""
FETCH_ROWS = 2_000


class Stored(NamedTuple):
    envelope: Envelope
    is_pending: bool
    """Still in the outbox."""


class GroupAccount(NamedTuple):
    """How one group stands with the events it subscribes to; the counts add up to `owed`."""

    owed: int
    applied: int
    ignored: int
    dead_lettered: int
    """In `failed_event`, and not applied since."""
    in_outbox: int
    unsettled: int
    """Sent, and none of these: on its way to the group, or lost."""


class Letters(NamedTuple):
    """Dead letters on record."""

    recorded: int
    redone: int
    tries: int
    """Of all letters together, before they were given up."""

    @property
    def open(self) -> int:
        return self.recorded - self.redone


def read_ledger(engine: Engine, tables: MessagingTables, since: datetime = BEGINNING) -> Iterator[Stored]:
    """Every event since that instant, in the outbox's order, streamed from one snapshot."""
    statement = text(
        f"SELECT {event_as_envelope(tables)}, p.id IS NOT NULL FROM {tables.event.fullname} e "
        f"LEFT JOIN {tables.pending.fullname} p ON p.id = e.id WHERE e.occurred_at >= :since ORDER BY e.id"
    )
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        _no_time_limit(connection)
        rows = connection.execution_options(yield_per=FETCH_ROWS).execute(statement, {"since": since})
        for row in rows:
            yield Stored(Envelope(*row[:-1]), row[-1])


def look_up(engine: Engine, tables: MessagingTables, ids: Sequence[str]) -> dict[str, Envelope]:
    """Those of the events that are there; ids that are no UUID are nobody's."""
    statement = text(
        f"SELECT {event_as_envelope(tables)} FROM {tables.event.fullname} e "
        "WHERE e.event_id = ANY(CAST(:ids AS uuid[]))"
    )
    found: dict[str, Envelope] = {}
    valid = [id_ for id_ in ids if _is_uuid(id_)]
    with engine.connect() as connection:
        for start in range(0, len(valid), FETCH_ROWS):
            for row in connection.execute(statement, {"ids": valid[start : start + FETCH_ROWS]}):
                found[row[0]] = Envelope(*row)
    return found


def account_of(
    connection: Connection,
    tables: MessagingTables,
    group: str,
    types: Sequence[str],
    since: datetime = BEGINNING,
) -> GroupAccount:
    _no_time_limit(connection)
    row = connection.execute(
        text(
            "SELECT count(*), count(*) FILTER (WHERE i.outcome = 'applied'), "
            "count(*) FILTER (WHERE i.outcome = 'ignored'), "
            "count(*) FILTER (WHERE i.event_id IS NULL AND f.id IS NOT NULL), "
            "count(*) FILTER (WHERE i.event_id IS NULL AND f.id IS NULL AND p.id IS NOT NULL), "
            f"count(*) FILTER (WHERE {_UNSETTLED}) {_joined(tables)}"
        ),
        {"group": group, "types": list(types), "since": since},
    ).one()
    return GroupAccount(*row)


def unsettled_ids(
    connection: Connection,
    tables: MessagingTables,
    group: str,
    types: Sequence[str],
    since: datetime = BEGINNING,
) -> list[str]:
    """Events that were sent and that this group neither applied, ignored nor gave up, in the outbox's order."""
    _no_time_limit(connection)
    found = connection.execute(
        text(f"SELECT CAST(e.event_id AS text) {_joined(tables)} AND {_UNSETTLED} ORDER BY e.id"),
        {"group": group, "types": list(types), "since": since},
    )
    return list(found.scalars())


def count_letters(connection: Connection, tables: MessagingTables) -> Letters:
    failed = tables.failed_event.fullname
    row = connection.execute(text(f"SELECT count(*), count(redone_at), coalesce(sum(attempts), 0) FROM {failed}")).one()
    return Letters(*row)


_UNSETTLED = "i.event_id IS NULL AND f.id IS NULL AND p.id IS NULL"


def _joined(tables: MessagingTables) -> str:
    return (
        f"FROM {tables.event.fullname} e "
        f"LEFT JOIN {tables.inbox.fullname} i ON i.consumer_group = :group AND i.event_id = e.event_id "
        f"LEFT JOIN {tables.failed_event.fullname} f ON f.topic = e.topic AND f.consumer_group = :group "
        "AND f.event_id = CAST(e.event_id AS text) "
        f"LEFT JOIN {tables.pending.fullname} p ON p.id = e.id "
        "WHERE e.event_type = ANY(:types) AND e.occurred_at >= :since"
    )


def _no_time_limit(connection: Connection) -> None:
    """These read whole tables; the limit of ordinary statements is for those that serve a request."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))


def _is_uuid(id_: str) -> bool:
    try:
        UUID(id_)
    except ValueError:
        return False
    return True
