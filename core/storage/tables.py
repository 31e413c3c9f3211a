"""The tables that carry messages, for any service: outbox, inbox, effects, dead letters. The shop's own: `shop.py`.

A factory and not module constants: other people's services put them into their own metadata and schema.
"""

from dataclasses import dataclass

from sqlalchemy import (
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


def messaging_tables(metadata: MetaData, schema: str | None = None) -> MessagingTables:
    """Add the six tables to `metadata`."""
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
        Column("next_try_at", DateTime(timezone=True)),
        Column("parked_at", DateTime(timezone=True)),
        schema=schema,
    )
    Index("pending_by_bucket", pending.c.bucket, pending.c.id)
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
    return MessagingTables(event, pending, bucket_lease, inbox, effect, failed_event)
