"""payment-service: have the gateway charge an order, or call the charge off; say what came of it.

The handler reserves the call in its transaction; after the commit the worker makes it, and the answer is settled
together with the event that tells of it (`core.inbox.outside`). A gateway that answers `pending` calls back later.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, update

from core.commands.context import envelope_of, new_uuid7, utc_now
from core.commands.payments import load_payments, store_payments
from core.domain import payments
from core.domain.events import CancelPayment, Event, OrderCancelled, ProcessPayment, Raised
from core.domain.payments import Payment, PaymentStatus, transaction_key_of
from core.effects.gateway import Charge
from core.effects.outside_calls import OutsideCalls
from core.effects.outside_world import OutsideWorld
from core.effects.payloads import follow_up, read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.inbox.outside import CallAll, Settle, each_alone, reserve
from core.messaging.envelope import Envelope
from core.storage.outside_calls import RESERVED, SENT
from core.storage.shop import ShopTables

TAKES = frozenset({"ProcessPayment", "CancelPayment", "OrderCancelled"})
GATEWAY_CONNECTIONS = 8
"""Calls made at a time."""


def take_payments(shop: ShopTables) -> GroupHandler:
    """The group's handler."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        events = [read(envelope, Event) for envelope in envelopes]
        known = load_payments(connection, shop, sorted({envelope.key for envelope in envelopes}))
        batch = _Batch(known)
        done = [batch.take(event, envelope) for event, envelope in zip(events, envelopes, strict=True)]
        store_payments(connection, shop, (known[order_id] for order_id in batch.touched))
        batch.write_calls(connection, shop)
        return HandlerResult(done, batch.publish)

    return handle


class _Batch:
    """What one batch makes of the payments it touches."""

    def __init__(self, known: dict[str, Payment]) -> None:
        self.known = known
        self.touched: set[str] = set()
        self.publish: list[Envelope] = []
        self.calls: dict[str, dict[str, Any]] = {}
        """By idempotency key."""
        self.withdrawn: set[str] = set()
        """Keys of charges that need not be made any more."""

    def take(self, event: Event, envelope: Envelope) -> Done:
        match event:
            case ProcessPayment():
                asked = payments.request(event, self.known.get(event.order_id))
                if asked is None:
                    return Ignored(f"its payment is {self.known[event.order_id].status}")
                self._keep(*asked, envelope)
                if asked[1] is not None:
                    return "payment_refused"
                self._call(asked[0], "charge", asked[0].transaction_key, envelope)
                return "payment_requested"
            case CancelPayment() | OrderCancelled():
                called_off = payments.cancel(event.order_id, self.known.get(event.order_id), event.reason)
                if called_off is None:
                    return Ignored(f"its payment is {self.known[event.order_id].status}")
                self._keep(*called_off, envelope)
                if called_off[1] is None:
                    return "cancel_noted"
                key = called_off[0].transaction_key
                self.calls.pop(key, None)
                self.withdrawn.add(key)
                self._call(called_off[0], "cancel", f"{key} cancel", envelope)
                return "payment_cancelled"
            case _:
                return Ignored("not a matter of payment")

    def write_calls(self, connection: Connection, shop: ShopTables) -> None:
        reserve(connection, shop.payment_call, list(self.calls.values()))
        if self.withdrawn:
            table = shop.payment_call
            # One that is being made now is not stopped by this: the gateway refuses or refunds it by its key.
            connection.execute(
                update(table)
                .where(table.c.idempotency_key.in_(sorted(self.withdrawn)), table.c.status == RESERVED)
                .values(status=SENT, last_error="withdrawn")
            )

    def _keep(self, payment: Payment, raised: Raised | None, envelope: Envelope) -> None:
        self.known[payment.order_id] = payment
        self.touched.add(payment.order_id)
        if raised is not None:
            self.publish.append(follow_up(raised, envelope))

    def _call(self, payment: Payment, action: str, key: str, envelope: Envelope) -> None:
        self.calls[key] = {
            "idempotency_key": key,
            "event_id": envelope.id,
            "order_id": payment.order_id,
            "action": action,
            "amount": payment.amount,
            "card_type": payment.card_type,
            "correlation_id": envelope.correlation_id,
        }


def call_gateway(world: OutsideWorld) -> CallAll:
    """A Charge for a charge, None for a cancellation."""

    def call(row: Mapping[str, Any]) -> Charge | None:
        order_id = str(row["order_id"])
        key = transaction_key_of(order_id)
        if row["action"] == "charge":
            return world.charge(key, order_id, row["amount"], row["card_type"])
        world.cancel(key)
        return None

    return each_alone(call, GATEWAY_CONNECTIONS)


def settle_payments(shop: ShopTables) -> Settle:
    """COMPLETED or FAILED with its event; an answer for a payment that is no longer PENDING changes nothing."""

    def settle(
        connection: Connection, answered: Sequence[tuple[Mapping[str, Any], Charge | None]]
    ) -> Sequence[Envelope]:
        final = [(row, answer) for row, answer in answered if answer is not None and answer.status != "pending"]
        known = load_payments(connection, shop, sorted({str(row["order_id"]) for row, _ in final}))
        changed: dict[str, Payment] = {}
        publish: list[Envelope] = []
        for row, answer in final:
            payment = known[str(row["order_id"])]
            if payment.status is not PaymentStatus.PENDING or payment.order_id in changed:
                continue
            if answer.status == "completed":
                after, raised = payments.complete(payment)
            else:
                after, raised = payments.fail(payment, answer.reason or "no reason given")
            changed[after.order_id] = after
            publish.append(envelope_of(raised, new_uuid7(), utc_now(), row["correlation_id"], row["event_id"]))
        store_payments(connection, shop, changed.values())
        return publish

    return settle


CALLS = OutsideCalls(lambda shop: shop.payment_call, call_gateway, at_once=GATEWAY_CONNECTIONS, settle=settle_payments)
