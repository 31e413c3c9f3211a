"""order-service: do to an order what its saga commands. Order, its events and what was sold are one transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection

from core.commands.orders import load_orders, store_orders
from core.domain import orders
from core.domain.events import CancelOrder, Command, ConfirmOrder, Raised
from core.domain.orders import Order, OrderStatus
from core.domain.rules import ForbiddenState
from core.effects.payloads import follow_up, read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"ConfirmOrder", "CancelOrder"})
SAGA = "order-saga"
"""Who cancelled it, as OrderCancelled says."""


def obey(shop: ShopTables) -> GroupHandler:
    """The group's handler."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        commands = [read(envelope, Command) for envelope in envelopes]
        known = load_orders(connection, shop, sorted({command.order_id for command in commands}))
        changed: dict[str, Order] = {}
        done: list[Done] = []
        publish: list[Envelope] = []
        for command, envelope in zip(commands, envelopes, strict=True):
            order = known.get(command.order_id)
            if order is None:
                done.append(Ignored("there is no such order"))
                continue
            try:
                after, raised, what = _decide(order, command)
            except ForbiddenState as refusal:
                done.append(Ignored(str(refusal)))
                continue
            done.append(what)
            if raised:
                known[order.id] = changed[order.id] = after
                publish += [follow_up(one, envelope) for one in raised]
        store_orders(connection, shop, changed.values())
        return HandlerResult(done, publish)

    return handle


def _decide(order: Order, command: Command) -> tuple[Order, Sequence[Raised], Done]:
    """The order afterwards, what it raised, and what to call that. Raises ForbiddenState."""
    match command:
        case ConfirmOrder() if order.status is OrderStatus.PENDING:
            confirmed, first = orders.confirm(order)
            paid, more = orders.pay(confirmed, command.payment_id, command.payment_method)
            return paid, [first, *more], ("order_confirmed", "order_paid")
        case ConfirmOrder():
            # Confirmed by hand before: only the payment is new.
            paid, more = orders.pay(order, command.payment_id, command.payment_method)
            return paid, more, "order_paid"
        case CancelOrder():
            cancelled, event = orders.cancel(order, command.reason, SAGA)
            if event is None:
                return order, (), Ignored("the order is CANCELLED already")
            return cancelled, [event], "order_cancelled"
        case _:
            return order, (), Ignored("not a command for an order")
