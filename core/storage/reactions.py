"""Tables of the groups that react to what the shop did: each is written by one group alone, from events."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.storage.outside_calls import outside_call_table


@dataclass(frozen=True)
class ReactionTables:
    email_sent_record: Table
    notification: Table
    platform_record: Table
    analytics_minute: Table
    order_anomaly: Table
    points_account: Table
    points_movement: Table
    coupon: Table
    order_read_model: Table

    @property
    def outside_calls(self) -> tuple[Table, ...]:
        return self.email_sent_record, self.notification, self.platform_record


def reaction_tables(metadata: MetaData, schema: str | None = None) -> ReactionTables:
    """Add them to `metadata`."""
    return ReactionTables(
        *_calls(metadata, schema), *_analytics(metadata, schema), *_points(metadata, schema), _views(metadata, schema)
    )


def _calls(metadata: MetaData, schema: str | None) -> tuple[Table, Table, Table]:
    email_sent_record = outside_call_table(
        metadata,
        "email_sent_record",
        # Of an order or a ticket.
        Column("order_id", String(100), nullable=False),
        Column("email_type", String(40), nullable=False),
        # Empty for what concerns the whole order.
        Column("seller_id", String(100), nullable=False),
        # An address; or the customer's id, where no event told an address.
        Column("recipient", String(320), nullable=False),
        Column("subject", Text, nullable=False),
        UniqueConstraint("order_id", "email_type", "seller_id", name="email_sent_once"),
        schema=schema,
    )
    notification = outside_call_table(
        metadata,
        "notification",
        # PUSH or SMS.
        Column("channel", String(10), nullable=False),
        Column("customer_id", String(100), nullable=False),
        Column("type", String(40), nullable=False),
        Column("message", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        UniqueConstraint("event_id", "channel", name="notified_once"),
        schema=schema,
    )
    Index("notification_of_customer", notification.c.customer_id, notification.c.id.desc())
    platform_record = outside_call_table(
        metadata,
        "platform_record",
        Column("kind", String(40), nullable=False),
        # What is sent, as JSON.
        Column("record", Text, nullable=False),
        schema=schema,
    )
    return email_sent_record, notification, platform_record


def _analytics(metadata: MetaData, schema: str | None) -> tuple[Table, Table]:
    analytics_minute = Table(
        "analytics_minute",
        metadata,
        # Of the events' own time, not of their arrival: a recount gives the same.
        Column("minute", DateTime(timezone=True), primary_key=True),
        Column("event_type", String(100), primary_key=True),
        Column("events", BigInteger, nullable=False),
        Column("amount", Numeric(30, 2), nullable=False),
        schema=schema,
    )
    order_anomaly = Table(
        "order_anomaly",
        metadata,
        Column("order_id", String(100), primary_key=True),
        Column("amount", Numeric(20, 2), nullable=False),
        # Of the orders it was compared with.
        Column("mean", Numeric(20, 2), nullable=False),
        Column("flagged_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        schema=schema,
    )
    return analytics_minute, order_anomaly


def _points(metadata: MetaData, schema: str | None) -> tuple[Table, Table, Table]:
    points_account = Table(
        "points_account",
        metadata,
        # Always the sum of the customer's movements.
        Column("customer_id", String(100), primary_key=True),
        Column("points", BigInteger, nullable=False),
        schema=schema,
    )
    points_movement = Table(
        "points_movement",
        metadata,
        # One an event: an account moves only with a movement that is new.
        Column("event_id", String(36), primary_key=True),
        Column("customer_id", String(100), nullable=False),
        Column("points", BigInteger, nullable=False),
        schema=schema,
    )
    coupon = Table(
        "coupon",
        metadata,
        Column("ticket_id", String(100), primary_key=True),
        Column("customer_id", String(100), nullable=False),
        # Null until it was used for that order.
        Column("order_id", String(100), unique=True),
        schema=schema,
    )
    Index("coupon_unused", coupon.c.customer_id, postgresql_where=coupon.c.order_id.is_(None))
    return points_account, points_movement, coupon


def _views(metadata: MetaData, schema: str | None) -> Table:
    order_read_model = Table(
        "order_read_model",
        metadata,
        Column("order_id", String(100), primary_key=True),
        # Of the newest order event in it; 0 while only the reservation's were seen: such a row is not shown.
        Column("version", BigInteger, nullable=False),
        Column("order_number", String(40), nullable=False, server_default=text("''")),
        Column("customer_id", String(100), nullable=False, server_default=text("''")),
        Column("total_amount", Numeric(20, 2), nullable=False, server_default=text("0")),
        Column("status", String(20), nullable=False, server_default=text("'PENDING'")),
        # Seller -> PENDING, SHIPPED or DELIVERED.
        Column("sellers", JSONB, nullable=False, server_default=text("'{}'")),
        Column("is_stock_confirmed", Boolean, nullable=False, server_default=text("false")),
        Column("cancellation_reason", Text),
        Column("created_at", DateTime(timezone=True)),
        Column("updated_at", DateTime(timezone=True)),
        schema=schema,
    )
    Index("read_orders_of_customer", order_read_model.c.customer_id, order_read_model.c.created_at.desc())
    Index("read_orders_by_status", order_read_model.c.status, order_read_model.c.created_at.desc())
    return order_read_model
