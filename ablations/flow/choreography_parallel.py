"""flow=choreography_parallel (S3.17, S0.17): stock and payment both follow OrderCreated, side by side, without a saga.

The order follows the payment alone (S1.3). Predicted: an order that cannot be filled is charged all the same and ends
PAID without stock; with stock for none, every order does. No crash point is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from core.domain.events import (
    CancelOrder,
    Command,
    ConfirmOrder,
    OrderCreated,
    PaymentCompleted,
    PaymentFailed,
    ProcessPayment,
    ReserveInventory,
    to_json,
)
from core.effects.payloads import read
from core.effects.table import GROUPS as SAGA_GROUPS
from core.effects.table import Group
from core.inbox.handlers import GroupHandler, HandlerResult
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

MakesHandler = Callable[[ShopTables], GroupHandler]
Reading = Callable[[Envelope], Command]


def _reserve(envelope: Envelope) -> Command:
    order = read(envelope, OrderCreated)
    return ReserveInventory(order_id=order.order_id, items=order.items, total_amount=order.total_amount)


def _charge(envelope: Envelope) -> Command:
    order = read(envelope, OrderCreated)
    return ProcessPayment(
        order_id=order.order_id,
        order_number=order.order_number,
        customer_id=order.customer_id,
        total_amount=order.total_amount,
        card_type=order.card_type,
    )


def _confirm(envelope: Envelope) -> Command:
    paid = read(envelope, PaymentCompleted)
    return ConfirmOrder(order_id=paid.order_id, payment_id=paid.payment_id, payment_method=paid.payment_method)


def _cancel(envelope: Envelope) -> Command:
    failed = read(envelope, PaymentFailed)
    return CancelOrder(order_id=failed.order_id, reason=failed.reason)


def _taking(make: MakesHandler, readings: Mapping[str, Reading]) -> MakesHandler:
    """A handler that takes these events as if they were the commands that the saga would have given."""

    def made(shop: ShopTables) -> GroupHandler:
        inner = make(shop)

        def as_command(envelope: Envelope) -> Envelope:
            reading = readings.get(envelope.type)
            if reading is None:
                return envelope
            command = reading(envelope)
            return envelope._replace(type=type(command).__name__, data=to_json(command))

        def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
            return inner(connection, [as_command(envelope) for envelope in envelopes])

        return handle

    return made


def _instead(name: str, readings: Mapping[str, Reading], also: Sequence[str] = ()) -> Group:
    group = SAGA_GROUPS[name]
    return replace(group, takes=frozenset({*readings, *also}), handler=_taking(group.handler, readings))


GROUPS: Mapping[str, Group] = {
    **{name: group for name, group in SAGA_GROUPS.items() if name != "order-saga"},
    "inventory-service": _instead(
        "inventory-service", {"OrderCreated": _reserve}, ("OrderConfirmed", "OrderCancelled")
    ),
    "payment-service": _instead("payment-service", {"OrderCreated": _charge}, ("OrderCancelled",)),
    "order-service": _instead("order-service", {"PaymentCompleted": _confirm, "PaymentFailed": _cancel}),
}
