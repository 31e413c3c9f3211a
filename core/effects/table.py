"""Who takes what: consumer group -> event types, handler, batch size. Both brokers' topology follows from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, Table

from core.domain.events import EVENT_TYPES
from core.effects import (
    analytics_service,
    data_platform,
    email_service,
    inventory_service,
    notification_service,
    order_saga,
    order_service,
    payment_service,
    points_coupons,
    product_metrics,
    read_model,
)
from core.effects.outside_calls import OutsideCalls
from core.inbox.handlers import EventSink, GroupHandler
from core.messaging.topology import Route, Topology
from core.storage.shop import ShopTables


@dataclass(frozen=True)
class Group:
    takes: frozenset[str]
    """Event types."""
    handler: Callable[[ShopTables], GroupHandler]
    batch_messages: int
    own_tables: Callable[[ShopTables], Sequence[Table]] | None = None
    """Tables that hold nothing but this group's effects: emptied when all of them are recomputed. None: they cannot
    be, for money, stock or mail has moved."""
    calls: OutsideCalls | None = None
    """Calls to the outside world that its handler reserves."""
    sweep: Callable[[Engine, ShopTables, EventSink], int] | None = None
    """Run now and then beside its worker; how much there was to do."""


GROUPS: Mapping[str, Group] = {
    "inventory-service": Group(inventory_service.TAKES, inventory_service.keep_stock, 100),
    "payment-service": Group(
        payment_service.TAKES,
        payment_service.take_payments,
        100,
        calls=payment_service.CALLS,
    ),
    "order-saga": Group(order_saga.TAKES, order_saga.run_sagas, 100, sweep=order_saga.move_on_overdue),
    "order-service": Group(order_service.TAKES, order_service.obey, 100),
    "email-service": Group(email_service.TAKES, email_service.reserve_mails, 10, calls=email_service.CALLS),
    "notification-service": Group(
        notification_service.TAKES, notification_service.notify, 100, calls=notification_service.CALLS
    ),
    "data-platform": Group(data_platform.TAKES, data_platform.feed_platform, 10, calls=data_platform.CALLS),
    "analytics-service": Group(
        analytics_service.TAKES,
        analytics_service.count_events,
        3_000,
        own_tables=lambda shop: (shop.reactions.analytics_minute, shop.reactions.order_anomaly),
    ),
    "points-coupons": Group(
        points_coupons.TAKES,
        points_coupons.reward,
        100,
        own_tables=lambda shop: (shop.reactions.points_account, shop.reactions.points_movement, shop.reactions.coupon),
    ),
    "read-model": Group(
        read_model.TAKES, read_model.project_orders, 100, own_tables=lambda shop: (shop.reactions.order_read_model,)
    ),
    "product-metrics": Group(
        product_metrics.TAKES,
        product_metrics.count_facts,
        3_000,
        # The cache too: versions start again at 1, and its entries would pass for newer.
        own_tables=lambda shop: (shop.product_metrics, shop.metrics_cache),
    ),
}


def topology(
    partitions: int = 3, prefix: str = "", audit: bool = True, groups: Mapping[str, Group] = GROUPS
) -> Topology:
    """Routes of every registered event type and the subscriptions of these groups; checked."""
    taken = frozenset().union(*(group.takes for group in groups.values()))
    result = Topology(
        routes={name: Route(kind.topic, kind.event_key) for name, kind in EVENT_TYPES.items()},
        subscriptions={name: group.takes for name, group in groups.items()},
        partitions=partitions,
        prefix=prefix,
        audit=audit,
        audit_only=frozenset(EVENT_TYPES) - taken,
    )
    result.check()
    return result
