"""read-model: the order as lists and searches show it, projected from events; an older event never overwrites a newer.

A batch reads the views it touches locked in key order, folds its events in memory and writes each view once.
"""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from core.domain.events import Event
from core.domain.order_views import OrderView, project
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset(
    {"OrderCreated", "OrderConfirmed", "OrderPaid", "OrderCancelled", "OrderStatusChanged", "InventoryConfirmed"}
)


def project_orders(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    table = shop.reactions.order_read_model
    given = insert(table)
    upsert = given.on_conflict_do_update(
        index_elements=[table.c.order_id],
        set_={name: given.excluded[name] for name in table.c.keys() if name != "order_id"},  # noqa: SIM118 (a column collection)
        # Against another worker that made the row meanwhile; rows that were there are locked.
        where=given.excluded.version >= table.c.version,
    )

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        views = _load(connection, shop, sorted({envelope.key for envelope in envelopes}))
        changed: set[str] = set()
        done: list[Done] = []
        for envelope in envelopes:
            view = views.get(envelope.key, OrderView(envelope.key))
            after = project(view, read(envelope, Event), envelope.sequence, envelope.occurred_at)
            if after is None:
                done.append(Ignored(f"the view is at version {view.version} already"))
                continue
            views[envelope.key] = after
            changed.add(envelope.key)
            done.append("projected")
        if changed:
            # Asked to return something, SQLAlchemy writes all rows with one statement instead of one each.
            connection.execute(upsert.returning(table.c.order_id), [asdict(views[key]) for key in sorted(changed)])
        return HandlerResult(done)

    return handle


def _load(connection: Connection, shop: ShopTables, order_ids: Sequence[str]) -> dict[str, OrderView]:
    table = shop.reactions.order_read_model
    rows = connection.execute(
        select(table).where(table.c.order_id.in_(order_ids)).order_by(table.c.order_id).with_for_update()
    )
    return {row.order_id: OrderView(**row._mapping) for row in rows}
