"""order-saga: keep each order's saga and give its next command, both in the inbox transaction.

So a crash leaves the saga where it was with its event still to come, or moved on with the command in the outbox: never
in between. `move_on_overdue` is its sweeper. What follows what: `core.domain.saga`.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert

from core.commands.context import envelope_of, new_uuid7, utc_now
from core.domain.events import Event, OrderCreated
from core.domain.saga import Move, Saga, SagaStatus, SagaStep, advance, overdue, start
from core.effects.payloads import follow_up, read
from core.inbox.handlers import Done, EventSink, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset(
    {
        "OrderCreated",
        "InventoryReserved",
        "InventoryReservationFailed",
        "InventoryReleased",
        "PaymentCompleted",
        "PaymentFailed",
        "OrderPaid",
        "OrderCancelled",
    }
)
DEADLINE_S = 60.0
"""How long a step may take before it is compensated."""


def run_sagas(shop: ShopTables, deadline_s: float = DEADLINE_S) -> GroupHandler:
    """The group's handler."""

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        events = [read(envelope, Event) for envelope in envelopes]
        sagas = _load(connection, shop, sorted({envelope.key for envelope in envelopes}))
        deadline_at = utc_now() + timedelta(seconds=deadline_s)
        moved: dict[str, str | None] = {}
        done: list[Done] = []
        publish: list[Envelope] = []
        for event, envelope in zip(events, envelopes, strict=True):
            saga = sagas.get(envelope.key)
            if saga is None:
                move = start(event, deadline_at) if isinstance(event, OrderCreated) else None
            else:
                move = advance(saga, event, deadline_at)
            if move is None:
                done.append(Ignored(f"the saga is {saga.status} at {saga.step}" if saga else "there is no saga"))
                continue
            sagas[envelope.key] = move.saga
            moved.setdefault(envelope.key, envelope.correlation_id)
            done.append(_effect(move))
            publish += [follow_up(raised, envelope) for raised in move.commands]
        _store(connection, shop, {key: (sagas[key], correlation_id) for key, correlation_id in moved.items()})
        return HandlerResult(done, publish)

    return handle


def move_on_overdue(
    engine: Engine, shop: ShopTables, sink: EventSink, deadline_s: float = DEADLINE_S, at_most_sagas: int = 100
) -> int:
    """Compensate the sagas whose deadline has passed, or go on with them (`saga.overdue`); how many there were."""
    table, now = shop.saga_state, utc_now()
    publish: list[Envelope] = []
    moved: dict[str, tuple[Saga, str | None]] = {}
    with engine.begin() as connection:
        rows = connection.execute(
            select(table)
            .where(table.c.deadline_at <= now)
            .order_by(table.c.order_id)
            .limit(at_most_sagas)
            .with_for_update(skip_locked=True)
        ).all()
        for row in rows:
            move = overdue(_saga(row), now + timedelta(seconds=deadline_s))
            if move is not None:
                moved[move.saga.order_id] = move.saga, row.correlation_id
                publish += [envelope_of(raised, new_uuid7(), now, row.correlation_id) for raised in move.commands]
        _store(connection, shop, moved)
        if publish:
            sink.write(connection, publish)
    if publish:
        sink.after_commit(publish)
    return len(rows)


def _effect(move: Move) -> str:
    """The name of what happened to the saga."""
    saga = move.saga
    return f"saga_{(saga.step if saga.status is SagaStatus.RUNNING else saga.status).lower()}"


def _load(connection: Connection, shop: ShopTables, order_ids: Sequence[str]) -> dict[str, Saga]:
    table = shop.saga_state
    rows = connection.execute(
        select(table).where(table.c.order_id.in_(order_ids)).order_by(table.c.order_id).with_for_update()
    )
    return {str(row.order_id): _saga(row) for row in rows}


def _saga(row: Any) -> Saga:
    return Saga(
        order_id=str(row.order_id),
        order_number=row.order_number,
        customer_id=row.customer_id,
        total_amount=row.total_amount,
        card_type=row.card_type,
        step=SagaStep(row.step),
        status=SagaStatus(row.status),
        version=row.version,
        deadline_at=row.deadline_at,
        failure=row.failure,
        payment_id=row.payment_id,
        payment_method=row.payment_method,
    )


def _store(connection: Connection, shop: ShopTables, moved: Mapping[str, tuple[Saga, str | None]]) -> None:
    """Sagas with the correlation they began with, in key order."""
    rows = [
        saga._asdict() | {"step": saga.step.value, "status": saga.status.value, "correlation_id": correlation_id}
        for _, (saga, correlation_id) in sorted(moved.items())
    ]
    if not rows:
        return
    table = shop.saga_state
    given = insert(table)
    changing = ("step", "status", "failure", "version", "deadline_at", "payment_id", "payment_method")
    connection.execute(
        given.on_conflict_do_update(
            index_elements=[table.c.order_id], set_={name: given.excluded[name] for name in changing}
        ),
        rows,
    )
