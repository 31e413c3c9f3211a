"""Who takes what: consumer group -> event types, handler, batch size. Both brokers' topology follows from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Table

from core.domain.events import EVENT_TYPES
from core.effects import inventory_service, product_metrics
from core.inbox.handlers import GroupHandler
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


GROUPS: Mapping[str, Group] = {
    "inventory-service": Group(inventory_service.TAKES, inventory_service.keep_stock, 100),
    "product-metrics": Group(
        product_metrics.TAKES, product_metrics.count_facts, 3_000, own_tables=lambda shop: (shop.product_metrics,)
    ),
}


def topology(partitions: int = 3, prefix: str = "", audit: bool = True) -> Topology:
    """Routes of every event type that a group takes and the subscriptions of every group; checked."""
    taken = frozenset().union(*(group.takes for group in GROUPS.values()))
    result = Topology(
        routes={name: Route(kind.topic, kind.event_key) for name, kind in EVENT_TYPES.items() if name in taken},
        subscriptions={name: group.takes for name, group in GROUPS.items()},
        partitions=partitions,
        prefix=prefix,
        audit=audit,
    )
    result.check()
    return result
