"""data-platform: keep the record of an event and hand it to the platform after the commit, under the event's id."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Connection

from core.domain.events import Event
from core.domain.platform_records import platform_record
from core.effects.outside_calls import OutsideCalls, deliveries
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.inbox.outside import Row, reserve
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"OrderConfirmed", "OrderCancelled", "TicketApplied"})


def feed_platform(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    table = shop.reactions.platform_record

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        records = [platform_record(read(envelope, Event), envelope.occurred_at) for envelope in envelopes]
        new = reserve(
            connection,
            table,
            [
                {
                    "idempotency_key": envelope.id,
                    "event_id": envelope.id,
                    "kind": record["kind"],
                    "record": _ENCODER.encode(record).decode(),
                }
                for envelope, record in zip(envelopes, records, strict=True)
                if record is not None
            ],
        )
        return HandlerResult([_done(envelope, new) for envelope in envelopes])

    return handle


def _done(envelope: Envelope, new: set[str]) -> Done:
    if envelope.type not in TAKES:
        return Ignored("no matter of the platform")
    return "record_reserved" if envelope.id in new else Ignored("its record was reserved before")


def _content(row: Row) -> Mapping[str, Any]:
    content: dict[str, Any] = _DECODER.decode(row["record"])
    return content


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
CALLS = OutsideCalls(lambda shop: shop.reactions.platform_record, deliveries(lambda row: "records", _content))
