"""While a load runs: which of its events has a group not settled yet, which of its orders are not there?

Each question touches only rows it names or rows newer than one it names, so it may be asked every second. The whole
account, when nothing runs any more: `ledger`.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from core.storage.shop import ShopTables
from core.storage.tables import MessagingTables


class Unsettled(NamedTuple):
    """An event that a group has neither applied, ignored nor given up."""

    number: int
    """Of the row in `event`: the outbox's order."""
    is_pending: bool
    """Still in the outbox."""


def newest_event(connection: Connection, tables: MessagingTables, after: int, older_than_s: float) -> int:
    """The highest row that is older than this; `after` where none is above that. Rows in between may still appear while
    their transactions run."""
    statement = text(
        f"SELECT coalesce(max(id), :after) FROM {tables.event.fullname} "
        "WHERE id > :after AND occurred_at <= clock_timestamp() - make_interval(secs => :older_than_s)"
    )
    return int(connection.execute(statement, {"after": after, "older_than_s": older_than_s}).scalar_one())


def still_unsettled(
    connection: Connection, tables: MessagingTables, group: str, numbers: Sequence[int]
) -> list[Unsettled]:
    """Those of the rows, in the outbox's order."""
    return _find(connection, tables, group, "e.id = ANY(:numbers)", {"numbers": list(numbers)})


def newly_unsettled(
    connection: Connection,
    tables: MessagingTables,
    group: str,
    types: Collection[str],
    after: int,
    until: int,
    limit: int,
) -> list[Unsettled]:
    """Those of these types whose rows are above `after`, up to `until`; the lowest `limit`, in the outbox's order."""
    given = {"types": list(types), "after": after, "until": until, "limit": limit}
    return _find(
        connection,
        tables,
        group,
        "e.id > :after AND e.id <= :until AND e.event_type = ANY(:types)",
        given,
        "LIMIT :limit",
    )


def find_orders(connection: Connection, shop: ShopTables, ids: Sequence[str]) -> set[str]:
    """Those of the orders that are there."""
    statement = text(f"SELECT CAST(id AS text) FROM {shop.orders.fullname} WHERE id = ANY(CAST(:ids AS uuid[]))")
    return set(connection.execute(statement, {"ids": list(ids)}).scalars())


def _find(
    connection: Connection,
    tables: MessagingTables,
    group: str,
    where: str,
    given: dict[str, object],
    limit: str = "",
) -> list[Unsettled]:
    rows = connection.execute(
        text(
            f"SELECT e.id, EXISTS (SELECT FROM {tables.pending.fullname} p WHERE p.id = e.id) "
            f"FROM {tables.event.fullname} e WHERE {where} "
            f"AND NOT EXISTS (SELECT FROM {tables.inbox.fullname} i "
            "WHERE i.consumer_group = :group AND i.event_id = e.event_id) "
            f"AND NOT EXISTS (SELECT FROM {tables.failed_event.fullname} f "
            "WHERE f.topic = e.topic AND f.consumer_group = :group AND f.event_id = CAST(e.event_id AS text)) "
            f"ORDER BY e.id {limit}"
        ),
        {"group": group, **given},
    )
    return [Unsettled(*row) for row in rows]
