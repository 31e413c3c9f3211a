"""The tables that carry messages, for any service: outbox, inbox, effects, dead letters. The shop's own: `shop.py`.

A factory and not module constants: other people's services put them into their own metadata and schema.
"""

import re
from dataclasses import dataclass

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)

SOURCE_PREFIX = "/shop/"
BUCKETS = 64
"""Buckets of the outbox: `lane_of(key, BUCKETS)`. More than any sensible number of relays, few enough to scan."""


@dataclass(frozen=True)
class MessagingTables:
    event: Table
    pending: Table
    bucket_lease: Table
    inbox: Table
    effect: Table
    failed_event: Table
    relay: Table
    cleared: Table
    source_prefix: str = SOURCE_PREFIX
    """What stands before the aggregate type in an event's CloudEvents source; not stored with each event, so writers
    and relays of one database name the same."""


def messaging_tables(
    metadata: MetaData, schema: str | None = None, source_prefix: str = SOURCE_PREFIX
) -> MessagingTables:
    """Add the eight tables to `metadata`. `source_prefix`: your service's own, such as `https://acme.example/billing/`.

    Raises ValueError for a prefix that is no plain URI reference ending in a slash: what follows it is the aggregate
    type, and the relay's SQL holds it as a literal.
    """
    if not re.fullmatch(r"[A-Za-z0-9/:._~#?=-]*/", source_prefix):
        raise ValueError(f"source_prefix={source_prefix!r} is not allowed; use a URI reference that ends in '/'")
    event = Table(
        "event",
        metadata,
        # Drawn inside the writer's transaction after the aggregate's version was read: the relay's reading order.
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("event_id", Uuid, nullable=False, unique=True),
        Column("topic", String(200), nullable=False),
        Column("event_type", String(100), nullable=False),
        Column("aggregate_type", String(100), nullable=False),
        Column("aggregate_id", String(100), nullable=False),
        Column("sequence", BigInteger),
        Column("schema_version", SmallInteger, nullable=False, server_default=text("1")),
        Column("correlation_id", String(100)),
        Column("causation_id", String(100)),
        Column("occurred_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("payload", Text, nullable=False),
        UniqueConstraint("aggregate_type", "aggregate_id", "sequence", name="event_one_per_version"),
        schema=schema,
    )
    pending = Table(
        "pending",
        metadata,
        # event.id of the same event; no foreign key: nothing ever deletes an event that is pending.
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("bucket", SmallInteger, nullable=False),
        # Kept here so that prefixes and parked keys are decided without reading the wide row.
        Column("key", String(100), nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("last_error", Text),
        # Not null: this row stopped its key; later rows of the key wait behind it. Null is the quick, usual case.
        Column("next_try_at", DateTime(timezone=True)),
        Column("parked_at", DateTime(timezone=True)),
        schema=schema,
        # Every row is deleted within seconds: vacuum by number of dead rows, at full speed, not by share of the table.
        postgresql_with={
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 20_000,
            "autovacuum_vacuum_cost_delay": 0,
            "autovacuum_vacuum_insert_threshold": -1,
        },
    )
    # The few keys that wait or are parked. Rows that may go are read by primary key, lowest first: an index by bucket
    # would cost every writer and could not give the lowest ids of many buckets without sorting a whole backlog.
    Index("pending_waiting", pending.c.next_try_at, pending.c.key, postgresql_where=pending.c.next_try_at.is_not(None))
    cleared = Table(
        "cleared",
        metadata,
        # One row a cleared batch, not one an event: when those events left the outbox and after how many refusals.
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("cleared_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("event_ids", ARRAY(BigInteger), nullable=False),
        # One number an id; null: none of them was ever refused.
        Column("attempts", ARRAY(Integer)),
        schema=schema,
    )
    Index("cleared_by_time", cleared.c.cleared_at)
    relay = Table(
        "relay",
        metadata,
        # Who is alive: a relay that owns no bucket yet must be counted too, or it would never get its share.
        Column("owner", String(100), primary_key=True),
        Column("seen_until", DateTime(timezone=True), nullable=False),
        schema=schema,
    )
    bucket_lease = Table(
        "bucket_lease",
        metadata,
        Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
        Column("owner", String(100)),
        Column("epoch", BigInteger, nullable=False, server_default=text("0")),
        Column("leased_until", DateTime(timezone=True)),
        schema=schema,
    )
    inbox = Table(
        "inbox",
        metadata,
        Column("consumer_group", String(100), primary_key=True),
        Column("event_id", Uuid, primary_key=True),
        Column("outcome", String(10), nullable=False, server_default=text("'applied'")),
        Column("reason", Text),
        Column("applied_no", BigInteger, Identity(), nullable=False),
        Column("handled_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        schema=schema,
    )
    effect = Table(
        "effect",
        metadata,
        # A journal without any unique key on purpose: what is written twice stands here twice, for the checkers.
        Column("applied_no", BigInteger, Identity(), primary_key=True),
        Column("consumer_group", String(100), nullable=False),
        Column("event_id", Uuid, nullable=False),
        Column("effect", String(100), nullable=False),
        schema=schema,
    )
    failed_event = Table(
        "failed_event",
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("topic", String(200), nullable=False),
        Column("consumer_group", String(100), nullable=False),
        # Text: a malformed message may carry anything, or a digest of its bytes stands in.
        Column("event_id", String(100), nullable=False),
        Column("event_type", String(100)),
        Column("key", String(1000), nullable=False, server_default=text("''")),
        Column("headers", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("first_failed_at", DateTime(timezone=True), nullable=False),
        Column("last_failed_at", DateTime(timezone=True), nullable=False),
        Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("redone_at", DateTime(timezone=True)),
        UniqueConstraint("topic", "consumer_group", "event_id", name="failed_event_once"),
        schema=schema,
    )
    return MessagingTables(event, pending, bucket_lease, inbox, effect, failed_event, relay, cleared, source_prefix)
