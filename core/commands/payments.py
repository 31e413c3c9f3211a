"""What a gateway's call-back may change about a payment; and how payments are read and written, for whoever does.

Each change is one transaction: payment, event and pending row, or none. `tell_untold` repairs what was written in
another way.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, cast, exists, select
from sqlalchemy.dialects.postgresql import insert

from core.commands.context import Context, envelope_of
from core.domain import payments
from core.domain.events import Raised
from core.domain.payments import Payment, PaymentStatus
from core.domain.rules import UnknownThing
from core.storage.shop import ShopTables
from core.storage.tables import MessagingTables


def complete_payment(context: Context, transaction_key: str, correlation_id: str) -> Payment:
    """PENDING becomes COMPLETED. Raises UnknownThing and ForbiddenState."""
    return _change(context, transaction_key, correlation_id, payments.complete)


def fail_payment(context: Context, transaction_key: str, correlation_id: str, reason: str) -> Payment:
    """PENDING becomes FAILED. Raises UnknownThing and ForbiddenState."""
    return _change(context, transaction_key, correlation_id, lambda payment: payments.fail(payment, reason))


def _change(
    context: Context, transaction_key: str, correlation_id: str, decide: Callable[[Payment], tuple[Payment, Raised]]
) -> Payment:
    with context.engine.begin() as connection:
        found = _read(connection, context.shop, context.shop.payment.c.transaction_key == transaction_key)
        if not found:
            raise UnknownThing("payment", transaction_key)
        changed, raised = decide(found[0])
        store_payments(connection, context.shop, [changed])
        envelopes = [envelope_of(raised, context.new_id(), context.now(), correlation_id)]
        context.write(connection, envelopes)
    context.committed(envelopes)
    return changed


def tell_untold(context: Context, tables: MessagingTables, since: datetime | None, at_most: int = 1_000) -> list[str]:
    """Write the event that a payment's newest version should have made and did not; the orders' ids, `at_most` so many.

    Nothing here leaves such a payment behind; a service that only logs that an outbox row could not be saved does
    (S1.6). Once a payment, however often and by however many it is called: the rows are locked, then looked at anew.
    `since`: only of orders made since then; older than retention keeps events it would tell again what was told. None:
    of all payments, where no event was ever deleted.
    """
    payment, event = context.shop.payment.c, tables.event.c
    told = exists().where(
        event.aggregate_type == "Payment",
        event.aggregate_id == cast(payment.order_id, String),
        event.sequence == payment.version,
    )
    untold = select(payment.transaction_key).where(payment.version > 0, ~told)
    if since is not None:
        orders = context.shop.orders.c
        untold = untold.where(exists().where(orders.id == payment.order_id, orders.created_at >= since))
    with context.engine.begin() as connection:
        keys = connection.execute(untold.order_by(payment.order_id).limit(at_most)).scalars().all()
        locked = {p.transaction_key: p for p in _read(connection, context.shop, payment.transaction_key.in_(keys))}
        # Whoever held the locks before may have told of some: a new statement sees that, the first one did not.
        left = connection.execute(untold.where(payment.transaction_key.in_(keys)).order_by(payment.order_id)).scalars()
        raised = [payments.event_of(locked[key]) for key in left]
        correlation_id = context.new_id()
        envelopes = [envelope_of(one, context.new_id(), context.now(), correlation_id) for one in raised]
        context.write(connection, envelopes)
    context.committed(envelopes)
    return [one.key for one in raised]


def load_payments(connection: Connection, shop: ShopTables, order_ids: Sequence[str]) -> dict[str, Payment]:
    """By order id, locked in key order until the transaction ends; absent: none was asked for."""
    found = _read(connection, shop, shop.payment.c.order_id.in_(order_ids))
    return {payment.order_id: payment for payment in found}


def store_payments(connection: Connection, shop: ShopTables, changed: Iterable[Payment]) -> None:
    """New ones and changed ones, in key order."""
    rows = [_row(payment) for payment in sorted(changed, key=lambda payment: payment.order_id)]
    if not rows:
        return
    table = shop.payment
    given = insert(table)
    columns = [column for column in rows[0] if column not in ("transaction_key", "order_id")]
    connection.execute(
        given.on_conflict_do_update(
            index_elements=[table.c.transaction_key], set_={name: given.excluded[name] for name in columns}
        ),
        rows,
    )


def _read(connection: Connection, shop: ShopTables, wanted: ColumnElement[bool]) -> list[Payment]:
    table = shop.payment
    rows = connection.execute(select(table).where(wanted).order_by(table.c.order_id).with_for_update())
    return [
        Payment(
            transaction_key=row.transaction_key,
            order_id=str(row.order_id),
            status=PaymentStatus(row.status),
            version=row.version,
            order_number=row.order_number,
            customer_id=row.customer_id,
            amount=row.amount,
            card_type=row.card_type,
            method=row.method,
            failure_reason=row.failure_reason,
        )
        for row in rows
    ]


def _row(payment: Payment) -> dict[str, Any]:
    return {
        "transaction_key": payment.transaction_key,
        "order_id": payment.order_id,
        "status": payment.status.value,
        "version": payment.version,
        "order_number": payment.order_number,
        "customer_id": payment.customer_id,
        "amount": payment.amount,
        "card_type": payment.card_type,
        "method": payment.method,
        "failure_reason": payment.failure_reason,
    }
