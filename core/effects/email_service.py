"""email-service: reserve a mail with the event that asks for it, send it after the commit, once.

A mail is (order or ticket, type, seller): its row is the record that it was sent, and its key keeps a repeated call
from being a second mail. Addresses come from events too: what OrderCreated told is found on that order's first mail.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from core.domain.events import Event
from core.domain.mails import Mail, mail_for
from core.effects.outside_calls import OutsideCalls, deliveries
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.inbox.outside import Row, reserve
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"OrderCreated", "OrderConfirmed", "OrderCancelled", "OrderStatusChanged", "TicketApplied"})


def reserve_mails(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    table = shop.reactions.email_sent_record

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        mails = [mail_for(read(envelope, Event)) for envelope in envelopes]
        addresses = _addresses(connection, table, [mail for mail in mails if mail])
        rows: dict[str, dict[str, Any]] = {}
        for envelope, mail in zip(envelopes, mails, strict=True):
            if mail is not None and mail.key not in rows:
                rows[mail.key] = _row(mail, envelope.id, addresses.get(mail.about, mail.customer_id))
        new = reserve(connection, table, list(rows.values()))
        return HandlerResult(
            [_done(mail, envelope, rows, new) for envelope, mail in zip(envelopes, mails, strict=True)]
        )

    return handle


def _row(mail: Mail, event_id: str, recipient: str) -> dict[str, Any]:
    return {
        "idempotency_key": mail.key,
        "event_id": event_id,
        "order_id": mail.about,
        "email_type": mail.type,
        "seller_id": mail.seller_id,
        "recipient": recipient,
        "subject": mail.subject,
    }


def _done(mail: Mail | None, envelope: Envelope, rows: Mapping[str, Row], new: set[str]) -> Done:
    if mail is None:
        return Ignored("asks for no mail")
    if mail.key not in new or rows[mail.key]["event_id"] != envelope.id:
        return Ignored("its mail was reserved before")
    return "mail_reserved"


def _addresses(connection: Connection, table: Table, mails: Sequence[Mail]) -> dict[str, str]:
    """Order id -> address, for the orders whose address was ever told."""
    told = {mail.about: mail.address for mail in mails if mail.address}
    unknown = {mail.about for mail in mails if mail.type != "ORDER_CONFIRMATION"} - told.keys()
    if unknown:
        first = select(table.c.order_id, table.c.recipient).where(
            table.c.order_id.in_(sorted(unknown)), table.c.email_type == "ORDER_CONFIRMATION"
        )
        told |= {row.order_id: row.recipient for row in connection.execute(first)}
    return told


def _content(row: Row) -> Mapping[str, Any]:
    return {"to": row["recipient"], "subject": row["subject"], "type": row["email_type"], "about": row["order_id"]}


CALLS = OutsideCalls(lambda shop: shop.reactions.email_sent_record, deliveries(lambda row: "mails", _content))
