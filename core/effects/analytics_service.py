"""analytics-service: events and money a minute, summed over a batch and added by one statement; orders out of line.

The minute is that of the events themselves, so a recount of the log gives the same table. An order is compared with the
mean of the hour before the batch's first order, and with those before it in its own batch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects.postgresql import insert

from core.domain.analytics import NOTHING, Seen, amount_of, anomalies
from core.domain.events import Event, OrderCreated
from core.effects.payloads import read
from core.inbox.handlers import GroupHandler, HandlerResult
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"OrderCreated", "OrderPaid", "PaymentCompleted", "PaymentCancelled", "InventoryReservationFailed"})
WINDOW = timedelta(hours=1)
ANOMALY_MULTIPLE = Decimal(10)
"""An order above so many times the mean is flagged."""
LEAST_ORDERS = 100
"""Seen before any order is flagged: the mean of a few says nothing."""

Key = tuple[datetime, str]
"""Minute, event type."""


def count_events(
    shop: ShopTables, multiple: Decimal = ANOMALY_MULTIPLE, least_orders: int = LEAST_ORDERS
) -> GroupHandler:
    """The group's handler."""
    add = _adder(shop)
    flag = insert(shop.reactions.order_anomaly).on_conflict_do_nothing()

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        counts: Counter[Key] = Counter()
        amounts: dict[Key, Decimal] = {}
        orders: list[OrderCreated] = []
        first_order_at: datetime | None = None
        for envelope in envelopes:
            event = read(envelope, Event)
            key = (envelope.occurred_at.replace(second=0, microsecond=0), envelope.type)
            counts[key] += 1
            amounts[key] = amounts.get(key, NOTHING) + amount_of(event)
            if isinstance(event, OrderCreated):
                orders.append(event)
                first_order_at = min(first_order_at or envelope.occurred_at, envelope.occurred_at)
        if first_order_at is not None:
            seen = _seen(connection, shop, first_order_at - WINDOW)
            flagged = [found._asdict() for found in anomalies(orders, seen, multiple, least_orders)]
            if flagged:
                connection.execute(flag, flagged)
        if counts:
            add(connection, counts, amounts)
        return HandlerResult(["counted"] * len(envelopes))

    return handle


def _adder(shop: ShopTables) -> Callable[[Connection, Counter[Key], dict[Key, Decimal]], None]:
    statement = text(f"""
        INSERT INTO {shop.reactions.analytics_minute.fullname} AS counted (minute, event_type, events, amount)
        SELECT * FROM unnest(CAST(:minutes AS timestamptz[]), CAST(:types AS text[]), CAST(:events AS bigint[]),
            CAST(:amounts AS numeric[]))
        ON CONFLICT (minute, event_type) DO UPDATE
        SET events = counted.events + excluded.events, amount = counted.amount + excluded.amount""")

    def add(connection: Connection, counts: Counter[Key], amounts: dict[Key, Decimal]) -> None:
        # In key order: two workers of the group lock the rows they share in the same order.
        keys = sorted(counts)
        given = {
            "minutes": [minute for minute, _ in keys],
            "types": [event_type for _, event_type in keys],
            "events": [counts[key] for key in keys],
            "amounts": [amounts[key] for key in keys],
        }
        connection.execute(statement, given)

    return add


def _seen(connection: Connection, shop: ShopTables, after: datetime) -> Seen:
    minute = shop.reactions.analytics_minute.c
    orders, amount = connection.execute(
        select(func.coalesce(func.sum(minute.events), 0), func.coalesce(func.sum(minute.amount), NOTHING)).where(
            minute.event_type == "OrderCreated", minute.minute >= after
        )
    ).one()
    return Seen(int(orders), amount)
