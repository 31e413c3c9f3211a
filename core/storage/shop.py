"""The shop's own tables: catalogue, orders, reservations, answers already given. What carries messages: `tables`."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from core.storage.outside_calls import outside_call_table
from core.storage.reactions import ReactionTables, reaction_tables


@dataclass(frozen=True)
class ShopTables:
    product: Table
    orders: Table
    order_items: Table
    order_number: Sequence
    stock_reservation: Table
    stock_reservation_item: Table
    payment: Table
    payment_call: Table
    """What the gateway is asked for: core.inbox.outside."""
    saga_state: Table
    product_like: Table
    product_metrics: Table
    metrics_cache: Table
    request: Table
    ticket: Table
    reactions: ReactionTables

    @property
    def outside_calls(self) -> tuple[Table, ...]:
        """Every table of calls to the outside world."""
        return self.payment_call, *self.reactions.outside_calls


def shop_tables(metadata: MetaData, schema: str | None = None) -> ShopTables:
    """Add the shop's tables to `metadata`. Money is numeric with two decimals."""
    own = f"{schema}." if schema else ""
    product = Table(
        "product",
        metadata,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("seller_id", String(100), nullable=False),
        Column("name", String(200), nullable=False),
        Column("price", Numeric(12, 2), nullable=False),
        # Never changes: stock conserved = initial_stock - what orders hold.
        Column("initial_stock", BigInteger, nullable=False),
        Column("stock", BigInteger, nullable=False),
        CheckConstraint("stock >= 0", name="product_stock_not_negative"),
        schema=schema,
    )
    order_number = Sequence("order_number", metadata=metadata, schema=schema, start=1_000_001)
    orders = Table(
        "orders",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("order_number", BigInteger, nullable=False, unique=True),
        Column("customer_id", String(100), nullable=False),
        Column("original_total", Numeric(20, 2), nullable=False),
        Column("discount", Numeric(20, 2), nullable=False, server_default=text("0")),
        Column("total_amount", Numeric(20, 2), nullable=False),
        Column("status", String(20), nullable=False, server_default=text("'PENDING'")),
        # Of the aggregate: equals the sequence of its newest event.
        Column("version", BigInteger, nullable=False, server_default=text("1")),
        Column("buyer_email", String(320)),
        Column("shipping_address", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        schema=schema,
    )
    Index("orders_of_customer", orders.c.customer_id, orders.c.id.desc())
    order_items = Table(
        "order_items",
        metadata,
        Column("order_id", Uuid, ForeignKey(f"{own}orders.id"), primary_key=True),
        Column("line_no", SmallInteger, primary_key=True, autoincrement=False),
        Column("product_id", BigInteger, nullable=False),
        Column("seller_id", String(100), nullable=False),
        Column("quantity", Integer, nullable=False),
        Column("price", Numeric(12, 2), nullable=False),
        # What its seller has said of it: SHIPPED or DELIVERED; null until then.
        Column("status", String(20)),
        schema=schema,
    )
    stock_reservation = Table(
        "stock_reservation",
        metadata,
        Column("order_id", Uuid, primary_key=True),
        # HELD, CONFIRMED, RELEASED, or FAILED: nothing was taken from the stock.
        Column("status", String(20), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("reason", Text),
        schema=schema,
    )
    stock_reservation_item = Table(
        "stock_reservation_item",
        metadata,
        # No unique key on order and product: that stock is taken once is the inbox's promise, and seen here if broken.
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("order_id", Uuid, nullable=False, index=True),
        Column("product_id", BigInteger, nullable=False),
        Column("quantity", Integer, nullable=False),
        schema=schema,
    )
    payment = Table(
        "payment",
        metadata,
        Column("transaction_key", String(100), primary_key=True),
        Column("order_id", Uuid, nullable=False, unique=True),
        # PENDING, COMPLETED, FAILED or CANCELLED.
        Column("status", String(20), nullable=False),
        Column("version", BigInteger, nullable=False),
        # What is cancelled before it was asked for has none of these yet.
        Column("order_number", String(40), nullable=False, server_default=text("''")),
        Column("customer_id", String(100), nullable=False, server_default=text("''")),
        Column("amount", Numeric(20, 2), nullable=False, server_default=text("0")),
        Column("card_type", String(40), nullable=False, server_default=text("''")),
        Column("method", String(40), nullable=False, server_default=text("''")),
        Column("failure_reason", Text),
        schema=schema,
    )
    payment_call = outside_call_table(
        metadata,
        "payment_call",
        Column("order_id", Uuid, nullable=False),
        # charge or cancel.
        Column("action", String(10), nullable=False),
        Column("amount", Numeric(20, 2), nullable=False),
        Column("card_type", String(40), nullable=False),
        # Of the command or event that asked for it, for the events that follow.
        Column("correlation_id", String(100)),
        schema=schema,
    )
    saga_state = Table(
        "saga_state",
        metadata,
        Column("order_id", Uuid, primary_key=True),
        # ORDER_CREATED, INVENTORY_RESERVED or PAYMENT_COMPLETED: the last step taken.
        Column("step", String(20), nullable=False),
        # RUNNING, COMPENSATING, COMPLETED or CANCELLED.
        Column("status", String(20), nullable=False),
        Column("failure", Text),
        # Of the aggregate OrderSaga: commands given so far.
        Column("version", BigInteger, nullable=False),
        # Null once it has ended.
        Column("deadline_at", DateTime(timezone=True)),
        Column("order_number", String(40), nullable=False),
        Column("customer_id", String(100), nullable=False),
        Column("total_amount", Numeric(20, 2), nullable=False),
        Column("card_type", String(40), nullable=False),
        Column("payment_id", String(100)),
        Column("payment_method", String(40)),
        # Of the order, for commands that no event but the clock causes.
        Column("correlation_id", String(100)),
        schema=schema,
    )
    Index("saga_overdue", saga_state.c.deadline_at, postgresql_where=saga_state.c.deadline_at.is_not(None))
    product_like = Table(
        "product_like",
        metadata,
        Column("product_id", BigInteger, primary_key=True, autoincrement=False),
        Column("customer_id", String(100), primary_key=True),
        schema=schema,
    )
    product_metrics = Table(
        "product_metrics",
        metadata,
        # Written by product-metrics alone, from events; never by the API.
        Column("product_id", BigInteger, primary_key=True, autoincrement=False),
        Column("likes", BigInteger, nullable=False, server_default=text("0")),
        Column("views", BigInteger, nullable=False, server_default=text("0")),
        # Pieces sold: counted when the order is paid.
        Column("sales", BigInteger, nullable=False, server_default=text("0")),
        # How often the row was written: of two copies of it, which is the newer.
        Column("version", BigInteger, nullable=False, server_default=text("1")),
        schema=schema,
    )
    metrics_cache = Table(
        "metrics_cache",
        metadata,
        # Copies of rows of product_metrics, and when each was read: core.storage.metrics_cache.
        Column("product_id", BigInteger, primary_key=True, autoincrement=False),
        Column("likes", BigInteger, nullable=False),
        Column("views", BigInteger, nullable=False),
        Column("sales", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("read_at", DateTime(timezone=True), nullable=False),
        # As a cache may: it costs no write-ahead log, and a crash of the database empties it.
        prefixes=["UNLOGGED"],
        schema=schema,
    )
    request = Table(
        "request",
        metadata,
        # Answers already given, so that the same key gets the same answer, across restarts too.
        Column("caller", String(100), primary_key=True),
        Column("idempotency_key", String(100), primary_key=True),
        Column("digest", LargeBinary, nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("answer", Text, nullable=False),
        # What was made: an order's or a ticket's id.
        Column("resource_id", String(100), nullable=False),
        Column("answered_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        schema=schema,
    )
    ticket = Table(
        "ticket",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("customer_id", String(100), nullable=False),
        # Keyed hash and mask: the phone number itself is kept nowhere.
        Column("phone_hash", String(64), nullable=False, index=True),
        Column("phone_masked", String(40), nullable=False),
        Column("show", String(200), nullable=False),
        Column("status", String(20), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("applied_at", DateTime(timezone=True), nullable=False),
        schema=schema,
    )
    return ShopTables(
        product=product,
        orders=orders,
        order_items=order_items,
        order_number=order_number,
        stock_reservation=stock_reservation,
        stock_reservation_item=stock_reservation_item,
        payment=payment,
        payment_call=payment_call,
        saga_state=saga_state,
        product_like=product_like,
        product_metrics=product_metrics,
        metrics_cache=metrics_cache,
        request=request,
        ticket=ticket,
        reactions=reaction_tables(metadata, schema),
    )
