"""The saga's whole transition table: state x event, and what a passed deadline does in each state."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from core.domain.events import (
    Event,
    InventoryConfirmed,
    InventoryReleased,
    InventoryReservationFailed,
    InventoryReserved,
    OrderCancelled,
    OrderCreated,
    OrderItem,
    OrderPaid,
    PaymentCompleted,
    PaymentFailed,
    Raised,
)
from core.domain.saga import Saga, SagaStatus, SagaStep, advance, overdue, start

SOON, LATER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
ITEMS = (OrderItem(product_id=1, seller_id="s-1", quantity=2, price=Decimal("10.00")),)
MONEY = {
    "original_total_amount": Decimal("20.00"),
    "discount_amount": Decimal("0.00"),
    "total_amount": Decimal("20.00"),
}
WHO = {"order_id": "o-1", "order_number": "1001", "customer_id": "c-1"}
CREATED = OrderCreated(
    **WHO, **MONEY, buyer_email=None, seller_ids=("s-1",), items=ITEMS, shipping_address=None, card_type="CREDIT"
)
PAYMENT = {**WHO, "payment_id": "pay-o-1", "amount": Decimal("20.00"), "card_type": "CREDIT", "payment_method": "CARD"}
EVENTS: dict[str, Event] = {
    "InventoryReserved": InventoryReserved(order_id="o-1", items=ITEMS, total_amount=Decimal("20.00")),
    "InventoryReservationFailed": InventoryReservationFailed(order_id="o-1", error_message="none", short_items=(1,)),
    "InventoryConfirmed": InventoryConfirmed(order_id="o-1"),
    "InventoryReleased": InventoryReleased(order_id="o-1", reason="r"),
    "PaymentCompleted": PaymentCompleted(**PAYMENT),  # type: ignore[arg-type]
    "PaymentFailed": PaymentFailed(**PAYMENT, reason="card declined"),  # type: ignore[arg-type]
    "OrderPaid": OrderPaid(
        order_id="o-1", customer_id="c-1", payment_id="pay-o-1", payment_method="CARD", total_amount=Decimal("20.00")
    ),
    "OrderCancelled": OrderCancelled(**WHO, **MONEY, reason="changed my mind", cancelled_by="c-1"),
}


def saga(step: SagaStep, status: SagaStatus, failure: str | None = None) -> Saga:
    """With one command given for each step it has taken."""
    ended = status in (SagaStatus.COMPLETED, SagaStatus.CANCELLED)
    paid = step is SagaStep.PAYMENT_COMPLETED
    return Saga(
        "o-1", "1001", "c-1", Decimal("20.00"), "CREDIT", step, status, list(SagaStep).index(step) + 1,
        None if ended else SOON, failure, "pay-o-1" if paid else None, "CARD" if paid else None,
    )  # fmt: skip


def commands(raised: tuple[Raised, ...]) -> list[tuple[str, int | None]]:
    return [(type(one.event).__name__, one.sequence) for one in raised]


def test_an_order_starts_its_saga_with_the_stock_it_asks_for() -> None:
    move = start(CREATED, SOON)
    assert move.saga == saga(SagaStep.ORDER_CREATED, SagaStatus.RUNNING)
    assert commands(move.commands) == [("ReserveInventory", 1)]
    assert move.commands[0].key == "o-1"


CREATED_STEP, RESERVED, PAID = SagaStep
RUNNING, COMPENSATING, COMPLETED, CANCELLED = SagaStatus
MOVES: dict[tuple[SagaStatus, SagaStep, str], tuple[SagaStatus, SagaStep, list[str], str | None]] = {
    (RUNNING, CREATED_STEP, "InventoryReserved"): (RUNNING, RESERVED, ["ProcessPayment"], None),
    (RUNNING, CREATED_STEP, "InventoryReservationFailed"): (
        COMPENSATING, CREATED_STEP, ["CancelOrder"], "out of stock: none",
    ),
    (RUNNING, RESERVED, "PaymentCompleted"): (RUNNING, PAID, ["ConfirmOrder"], None),
    (RUNNING, RESERVED, "PaymentFailed"): (
        COMPENSATING, RESERVED, ["ReleaseInventory", "CancelOrder"], "payment failed: card declined",
    ),
    (RUNNING, PAID, "OrderPaid"): (COMPLETED, PAID, [], None),
    **{
        (status, step, "OrderCancelled"): (CANCELLED, step, [], "order cancelled: changed my mind")
        for status in (RUNNING, COMPENSATING) for step in SagaStep
    },
}  # fmt: skip
"""(status, step, event) -> status, step, commands, failure; every other event changes nothing."""


@pytest.mark.row("S3.38")
@pytest.mark.parametrize("status", SagaStatus)
@pytest.mark.parametrize("step", SagaStep)
@pytest.mark.parametrize("name", EVENTS)
def test_an_event_moves_the_saga_only_from_the_step_it_belongs_to(
    status: SagaStatus, step: SagaStep, name: str
) -> None:
    before = saga(step, status)
    move = advance(before, EVENTS[name], LATER)
    expected = MOVES.get((status, step, name))
    if expected is None:
        assert move is None
        return
    assert move is not None
    after = move.saga
    assert (after.status, after.step, [name for name, _ in commands(move.commands)], after.failure) == expected
    assert [sequence for _, sequence in commands(move.commands)] == [
        before.version + n + 1 for n in range(len(move.commands))
    ]
    assert after.version == before.version + len(move.commands)
    assert after.deadline_at == (None if after.status in (COMPLETED, CANCELLED) else LATER)


def test_a_failure_is_kept_when_the_order_s_cancellation_ends_the_saga() -> None:
    before = saga(RESERVED, COMPENSATING, "payment failed: card declined")
    move = advance(before, EVENTS["OrderCancelled"], LATER)
    assert move is not None
    assert move.saga.failure == "payment failed: card declined"


@pytest.mark.parametrize(
    ("before", "status", "given"),
    [
        (saga(CREATED_STEP, RUNNING), COMPENSATING, ["ReleaseInventory", "CancelOrder"]),
        (saga(RESERVED, RUNNING), COMPENSATING, ["CancelPayment", "ReleaseInventory", "CancelOrder"]),
        # Paid: what was sold is not taken back; the order is told again.
        (saga(PAID, RUNNING), RUNNING, ["ConfirmOrder"]),
        (saga(CREATED_STEP, COMPENSATING, "out of stock: none"), COMPENSATING, ["CancelOrder"]),
        (saga(RESERVED, COMPENSATING, "payment failed: x"), COMPENSATING, ["ReleaseInventory", "CancelOrder"]),
        (
            saga(RESERVED, COMPENSATING, "timed out after INVENTORY_RESERVED"),
            COMPENSATING,
            ["CancelPayment", "ReleaseInventory", "CancelOrder"],
        ),
    ],
)
def test_a_saga_past_its_deadline_is_wound_up_before_the_payment_and_carried_on_after_it(
    before: Saga, status: SagaStatus, given: list[str]
) -> None:
    move = overdue(before, LATER)
    assert move is not None
    assert (move.saga.status, move.saga.step, move.saga.deadline_at) == (status, before.step, LATER)
    assert commands(move.commands) == [(name, before.version + n) for n, name in enumerate(given, start=1)]


@pytest.mark.parametrize("status", [COMPLETED, CANCELLED])
@pytest.mark.parametrize("step", SagaStep)
def test_a_saga_that_has_ended_is_never_overdue(status: SagaStatus, step: SagaStep) -> None:
    assert overdue(saga(step, status), LATER) is None
