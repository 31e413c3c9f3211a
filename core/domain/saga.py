"""The saga of an order: which command follows which event, and how a saga that fails or hangs is wound up.

    OrderCreated -> ReserveInventory    InventoryReservationFailed -> CancelOrder
    InventoryReserved -> ProcessPayment    PaymentFailed -> ReleaseInventory, CancelOrder
    PaymentCompleted -> ConfirmOrder    OrderPaid, OrderCancelled: ended

Every step has a deadline. Before the payment is completed an overdue saga is compensated; afterwards, and while it is
being compensated, the only way is on: its last commands are given again, which their receivers bear. An event that
does not belong to the present step changes nothing: so duplicates and stragglers never restart a step.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from core.domain.events import (
    CancelOrder,
    CancelPayment,
    Command,
    ConfirmOrder,
    Event,
    InventoryReservationFailed,
    InventoryReserved,
    OrderCancelled,
    OrderCreated,
    OrderPaid,
    PaymentCompleted,
    PaymentFailed,
    ProcessPayment,
    Raised,
    ReleaseInventory,
    ReserveInventory,
)

OUT_OF_STOCK = "out of stock"
PAYMENT_FAILED = "payment failed"
TIMED_OUT = "timed out"


class SagaStep(StrEnum):
    ORDER_CREATED = "ORDER_CREATED"
    INVENTORY_RESERVED = "INVENTORY_RESERVED"
    PAYMENT_COMPLETED = "PAYMENT_COMPLETED"


class SagaStatus(StrEnum):
    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


ENDED = frozenset({SagaStatus.COMPLETED, SagaStatus.CANCELLED})


class Saga(NamedTuple):
    order_id: str
    order_number: str
    customer_id: str
    total_amount: Decimal
    card_type: str
    step: SagaStep
    status: SagaStatus
    version: int
    """Commands given so far."""
    deadline_at: datetime | None
    """Until when the next event has to be here; None once it has ended."""
    failure: str | None = None
    payment_id: str | None = None
    payment_method: str | None = None


class Move(NamedTuple):
    saga: Saga
    commands: tuple[Raised, ...] = ()


def start(event: OrderCreated, deadline_at: datetime) -> Move:
    """A new saga and its first command."""
    saga = Saga(
        order_id=event.order_id,
        order_number=event.order_number,
        customer_id=event.customer_id,
        total_amount=event.total_amount,
        card_type=event.card_type,
        step=SagaStep.ORDER_CREATED,
        status=SagaStatus.RUNNING,
        version=0,
        deadline_at=deadline_at,
    )
    reserve = ReserveInventory(order_id=event.order_id, items=event.items, total_amount=event.total_amount)
    return _giving(saga, [reserve])


def advance(saga: Saga, event: Event, deadline_at: datetime) -> Move | None:
    """What follows from the event; None where it does not belong to the saga's present step (the step guard)."""
    order_id = saga.order_id
    match saga.status, saga.step, event:
        case SagaStatus.RUNNING, SagaStep.ORDER_CREATED, InventoryReserved():
            pay = ProcessPayment(
                order_id=order_id,
                order_number=saga.order_number,
                customer_id=saga.customer_id,
                total_amount=saga.total_amount,
                card_type=saga.card_type,
            )
            return _giving(saga._replace(step=SagaStep.INVENTORY_RESERVED, deadline_at=deadline_at), [pay])
        case SagaStatus.RUNNING, SagaStep.ORDER_CREATED, InventoryReservationFailed():
            return _compensating(saga, f"{OUT_OF_STOCK}: {event.error_message}", deadline_at)
        case SagaStatus.RUNNING, SagaStep.INVENTORY_RESERVED, PaymentCompleted():
            paid = saga._replace(
                step=SagaStep.PAYMENT_COMPLETED,
                deadline_at=deadline_at,
                payment_id=event.payment_id,
                payment_method=event.payment_method,
            )
            return _giving(paid, [_confirm(paid)])
        case SagaStatus.RUNNING, SagaStep.INVENTORY_RESERVED, PaymentFailed():
            return _compensating(saga, f"{PAYMENT_FAILED}: {event.reason}", deadline_at)
        case SagaStatus.RUNNING, SagaStep.PAYMENT_COMPLETED, OrderPaid():
            return Move(saga._replace(status=SagaStatus.COMPLETED, deadline_at=None))
        # Stock and payment take this event themselves, so nothing is left to be asked for.
        case SagaStatus.RUNNING | SagaStatus.COMPENSATING, _, OrderCancelled():
            failure = saga.failure or f"order cancelled: {event.reason}"
            return Move(saga._replace(status=SagaStatus.CANCELLED, deadline_at=None, failure=failure))
    return None


def overdue(saga: Saga, deadline_at: datetime) -> Move | None:
    """The way on for a saga whose deadline has passed; None if it has ended."""
    if saga.status in ENDED:
        return None
    if saga.status is SagaStatus.COMPENSATING:
        return _giving(saga._replace(deadline_at=deadline_at), _undoing(saga))
    if saga.step is SagaStep.PAYMENT_COMPLETED:
        return _giving(saga._replace(deadline_at=deadline_at), [_confirm(saga)])
    return _compensating(saga, f"{TIMED_OUT} after {saga.step}", deadline_at)


def _compensating(saga: Saga, failure: str, deadline_at: datetime) -> Move:
    failed = saga._replace(status=SagaStatus.COMPENSATING, failure=failure, deadline_at=deadline_at)
    return _giving(failed, _undoing(failed))


def _undoing(saga: Saga) -> list[Command]:
    """What its failure leaves to be undone, the order last. A cancel that comes before its request refuses that."""
    order_id, failure = saga.order_id, saga.failure or ""
    undo: list[Command] = []
    if failure.startswith(TIMED_OUT) and saga.step is SagaStep.INVENTORY_RESERVED:
        undo.append(CancelPayment(order_id=order_id, reason=failure))
    if not failure.startswith(OUT_OF_STOCK):
        undo.append(ReleaseInventory(order_id=order_id, reason=failure))
    return [*undo, CancelOrder(order_id=order_id, reason=failure)]


def _confirm(saga: Saga) -> ConfirmOrder:
    return ConfirmOrder(
        order_id=saga.order_id, payment_id=saga.payment_id or "", payment_method=saga.payment_method or ""
    )


def _giving(saga: Saga, commands: Sequence[Command]) -> Move:
    """The saga with these commands given, each its own version."""
    raised = tuple(Raised(saga.order_id, saga.version + n, command) for n, command in enumerate(commands, start=1))
    return Move(saga._replace(version=saga.version + len(raised)), raised)
