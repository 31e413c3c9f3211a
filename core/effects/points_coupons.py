"""points-coupons: points for what was paid, a coupon for each ticket application, used with the next payment.

Nothing here adds without a condition: an account moves only with a movement that is new, a coupon is used only while it
is unused and once an order. So even a delivery that the inbox does not know repeats nothing.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from core.domain.events import Event, PaymentCompleted, TicketApplied
from core.domain.points import POINTS_PER_TICKET, points_for
from core.effects.payloads import read
from core.inbox.handlers import Done, GroupHandler, HandlerResult, Ignored
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables

TAKES = frozenset({"PaymentCompleted", "TicketApplied"})


def reward(shop: ShopTables) -> GroupHandler:
    """The group's handler."""
    tables = shop.reactions
    move = text(f"""
        WITH moved AS (
            INSERT INTO {tables.points_movement.fullname} (event_id, customer_id, points)
            SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:customers AS text[]), CAST(:points AS bigint[]))
            ON CONFLICT DO NOTHING RETURNING event_id, customer_id, points
        ), added AS (
            INSERT INTO {tables.points_account.fullname} AS account (customer_id, points)
            SELECT customer_id, sum(points) FROM moved GROUP BY customer_id ORDER BY customer_id
            ON CONFLICT (customer_id) DO UPDATE SET points = account.points + excluded.points
        )
        SELECT event_id FROM moved""")
    issue = text(f"""
        INSERT INTO {tables.coupon.fullname} (ticket_id, customer_id)
        SELECT * FROM unnest(CAST(:tickets AS text[]), CAST(:customers AS text[])) ON CONFLICT DO NOTHING""")
    use = text(f"""
        WITH paid AS (
            SELECT customer_id, order_id, row_number() OVER (PARTITION BY customer_id ORDER BY place) AS turn
            FROM unnest(CAST(:customers AS text[]), CAST(:orders AS text[])) WITH ORDINALITY
                AS given (customer_id, order_id, place)
            WHERE NOT EXISTS (SELECT FROM {tables.coupon.fullname} used WHERE used.order_id = given.order_id)
        ), unused AS (
            SELECT ticket_id, customer_id, row_number() OVER (PARTITION BY customer_id ORDER BY ticket_id) AS turn
            FROM {tables.coupon.fullname} WHERE order_id IS NULL AND customer_id = ANY(CAST(:customers AS text[]))
        )
        UPDATE {tables.coupon.fullname} coupon SET order_id = paid.order_id
        FROM paid JOIN unused USING (customer_id, turn)
        WHERE coupon.ticket_id = unused.ticket_id AND coupon.order_id IS NULL RETURNING coupon.order_id""")

    def handle(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
        events = [read(envelope, Event) for envelope in envelopes]
        paid = [event for event in events if isinstance(event, PaymentCompleted)]
        tickets = [event for event in events if isinstance(event, TicketApplied)]
        earned = [(e.id, *_earned(event)) for e, event in zip(envelopes, events, strict=True) if _earned(event)]
        moved: set[str] = set()
        if earned:
            ids, customers, points = (list(column) for column in zip(*earned, strict=True))
            moved = set(connection.execute(move, {"ids": ids, "customers": customers, "points": points}).scalars())
        if tickets:
            issued = {"tickets": [t.ticket_id for t in tickets], "customers": [t.customer_id for t in tickets]}
            connection.execute(issue, issued)
        used: set[str] = set()
        if paid:
            orders = {"customers": [p.customer_id for p in paid], "orders": [p.order_id for p in paid]}
            used = set(connection.execute(use, orders).scalars())
        return HandlerResult([_done(e, event, moved, used) for e, event in zip(envelopes, events, strict=True)])

    return handle


def _earned(event: Event) -> tuple[str, int] | tuple[()]:
    """Customer and points."""
    match event:
        case PaymentCompleted():
            return event.customer_id, points_for(event.amount)
        case TicketApplied():
            return event.customer_id, POINTS_PER_TICKET
        case _:
            return ()


def _done(envelope: Envelope, event: Event, moved: set[str], used: set[str]) -> Done:
    if envelope.id not in moved:
        return Ignored("rewarded before" if _earned(event) else "nothing is earned by it")
    if isinstance(event, TicketApplied):
        return "points_added", "coupon_issued"
    if isinstance(event, PaymentCompleted) and event.order_id in used:
        return "points_added", "coupon_used"
    return "points_added"
