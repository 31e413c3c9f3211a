"""notification-service: one row an event and channel, which the customer reads and which is pushed or sent as SMS."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from core.domain.events import Event
from core.domain.notifications import SMS, notification_for
from core.effects.outside_calls import OutsideCalls, deliveries
from core.effects.outside_world import Service
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.inbox.outside import Row, reserve
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset(
    {"OrderCreated", "OrderConfirmed", "OrderPaid", "OrderCancelled", "OrderStatusChanged", "PaymentFailed"}
)


def notify(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    table = shop.reactions.notification

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        wanted: list[list[dict[str, Any]]] = [_rows(envelope) for envelope in envelopes]
        new = reserve(connection, table, [row for rows in wanted for row in rows])
        return HandlerResult([_done(rows, new) for rows in wanted])

    return handle


def _rows(envelope: Envelope) -> list[dict[str, Any]]:
    """One a channel."""
    notification = notification_for(read(envelope, Event))
    if notification is None:
        return []
    return [
        {
            "idempotency_key": f"{envelope.id}:{channel}",
            "event_id": envelope.id,
            "channel": channel,
            "customer_id": notification.customer_id,
            "type": notification.type,
            "message": notification.message,
        }
        for channel in notification.channels
    ]


def _done(rows: Sequence[Row], new: set[str]) -> Done:
    names = tuple(f"{row['channel'].lower()}_reserved" for row in rows if row["idempotency_key"] in new)
    return names or Ignored("it was notified before" if rows else "nobody is told of it")


def _service(row: Row) -> Service:
    return "sms" if row["channel"] == SMS else "pushes"


def _content(row: Row) -> Mapping[str, Any]:
    return {"to": row["customer_id"], "type": row["type"], "text": row["message"]}


CALLS = OutsideCalls(lambda shop: shop.reactions.notification, deliveries(_service, _content))
