"""Tables of calls to be made outside: one row a call, reserved with the effect that wants it, sent when it was made."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    select,
    text,
)
from sqlalchemy.schema import SchemaItem

RESERVED, SENT = "RESERVED", "SENT"


def outside_call_table(
    metadata: MetaData, name: str, *own_columns: Column[Any] | SchemaItem, schema: str | None = None
) -> Table:
    """A table of outside calls; `own_columns` hold what the call needs."""
    table = Table(
        name,
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        # One call a key: reserving it again is a repeat. E.g. order id and mail type.
        Column("idempotency_key", String(200), nullable=False, unique=True),
        Column("event_id", String(36), nullable=False, index=True),
        Column("status", String(10), nullable=False, server_default=text(f"'{RESERVED}'")),
        # Whose turn it is: a caller moves it on before it calls, so that two do not call at once.
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("calls", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
        Column("sent_at", DateTime(timezone=True)),
        *own_columns,
        schema=schema,
    )
    # What the sweeper looks for is a few rows among all that were ever sent.
    Index(f"{name}_reserved", table.c.due_at, postgresql_where=table.c.status == RESERVED)
    return table


def count_reserved(connection: Connection, tables: Iterable[Table]) -> int:
    """Calls that are still owed to the outside world."""
    counts = [select(func.count()).where(table.c.status == RESERVED).scalar_subquery() for table in tables]
    return sum(connection.execute(select(*counts)).one()) if counts else 0
