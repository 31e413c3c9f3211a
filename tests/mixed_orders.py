"""Made-up traffic of the whole shop, seeded: orders that end in every way, product facts, ticket applications.

Each aggregate's events are in order with their versions; those of different aggregates are mixed. What must come of
them is counted by the tests, straight from these events.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

from core.commands.context import envelope_of
from core.domain.events import (
    Event,
    InventoryConfirmed,
    InventoryReservationFailed,
    LikeChanged,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderItem,
    OrderPaid,
    OrderStatusChanged,
    PaymentCancelled,
    PaymentCompleted,
    PaymentFailed,
    ProductSold,
    ProductViewed,
    Raised,
    TicketApplied,
)
from core.messaging.envelope import Envelope

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
CUSTOMERS, PRODUCTS = 20, 10


class Traffic:
    """Draws ids and times from the seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._events = 0

    def new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def envelope(self, key: str, sequence: int | None, event: Event) -> Envelope:
        self._events += 1
        at = START + timedelta(milliseconds=300 * self._events)
        return envelope_of(Raised(key, sequence, event), self.new_id(), at, f"request-{key}")

    def order(self, number: int) -> list[Envelope]:
        """The life of one order and of its payment and reservation; `number` says how it ends."""
        order_id, customer = self.new_id(), f"c-{number % CUSTOMERS}"
        sellers = [f"seller-{n}" for n in range(1, 2 + number % 2)]
        items = tuple(
            OrderItem(product_id=self.random.randint(1, PRODUCTS), seller_id=s, quantity=2, price=Decimal("100.00"))
            for s in sellers
        )
        total = sum((item.price * item.quantity for item in items), Decimal("0.00")) + self.random.randint(0, 99)
        money = {"original_total_amount": total, "discount_amount": Decimal("0.00"), "total_amount": total}
        named = {"order_id": order_id, "order_number": str(1_000_000 + number), "customer_id": customer}
        payment = {
            "payment_id": f"pay-{order_id}",
            "order_id": order_id,
            "order_number": named["order_number"],
            "customer_id": customer,
            "amount": total,
            "card_type": "CREDIT",
            "payment_method": "CARD",
        }
        life = [
            (
                1,
                OrderCreated(
                    **named,
                    **money,
                    buyer_email=f"{customer}@example.org" if number % 3 else None,
                    seller_ids=tuple(sellers),
                    items=items,
                    shipping_address=None,
                ),
            )
        ]
        cancelled = OrderCancelled(**named, **money, reason="it was so decided", cancelled_by="order-saga")
        match number % 5:
            case 0 | 1:
                life += [
                    (1, PaymentCompleted(**payment)),
                    (2, OrderConfirmed(**named, **money)),
                    (
                        3,
                        OrderPaid(
                            order_id=order_id,
                            customer_id=customer,
                            payment_id=payment["payment_id"],
                            payment_method="CARD",
                            total_amount=total,
                        ),
                    ),
                    (2, InventoryConfirmed(order_id=order_id)),
                ]
                shipped = ["SHIPPED", "DELIVERED"][: number % 3]
                changes = [(seller, status) for status in shipped for seller in sellers]
                life += [
                    (version, OrderStatusChanged(**named, seller_id=seller, status=status))
                    for version, (seller, status) in enumerate(changes, start=4)
                ]
            case 2:
                life += [(1, PaymentFailed(**payment, reason="card declined")), (2, cancelled)]
            case 3:
                failed = InventoryReservationFailed(order_id=order_id, error_message="none left", short_items=(1,))
                life += [(1, failed), (2, cancelled)]
            case _:
                life += [
                    (1, PaymentCompleted(**payment)),
                    (2, cancelled),
                    (
                        2,
                        PaymentCancelled(
                            payment_id=payment["payment_id"], order_id=order_id, amount=total, reason="cancelled"
                        ),
                    ),
                ]
        envelopes = [self.envelope(order_id, version, event) for version, event in life]
        if number % 5 < 2:
            envelopes += [
                self.envelope(
                    str(item.product_id),
                    None,
                    ProductSold(
                        product_id=item.product_id,
                        order_id=order_id,
                        quantity=item.quantity,
                        amount=item.price * item.quantity,
                    ),
                )
                for item in items
            ]
        return envelopes

    def ticket(self, number: int) -> list[Envelope]:
        ticket_id = self.new_id()
        event = TicketApplied(
            ticket_id=ticket_id,
            customer_id=f"c-{number % CUSTOMERS}",
            phone_hash=f"{number:064x}",
            phone_masked=f"*******{number % 10_000:04}",
            show="Music Bank",
            applied_at=START,
        )
        return [self.envelope(ticket_id, 1, event)]

    def facts(self, number: int) -> list[Envelope]:
        product, customer = self.random.randint(1, PRODUCTS), f"c-{number}"
        return [
            self.envelope(str(product), None, ProductViewed(product_id=product, customer_id=customer)),
            self.envelope(str(product), None, LikeChanged(product_id=product, customer_id=customer, delta=1)),
        ]


def mixed(orders: int, tickets: int, seed: int = 1) -> list[Envelope]:
    """All of it; each aggregate's events in order."""
    traffic = Traffic(seed)
    lives = [traffic.order(number) for number in range(orders)]
    lives += [traffic.ticket(number) for number in range(tickets)]
    lives += [traffic.facts(number) for number in range(orders // 4)]
    return list(_shuffled(lives, traffic.random))


def _shuffled(lives: list[list[Envelope]], random: Random) -> Iterator[Envelope]:
    left = [list(reversed(life)) for life in lives]
    while left:
        place = random.randrange(len(left))
        yield left[place].pop()
        if not left[place]:
            left[place] = left[-1]
            left.pop()


def batches(envelopes: list[Envelope], most: int, seed: int) -> Iterator[list[Envelope]]:
    """Cut into batches of 1 to `most`."""
    random, start = Random(seed), 0
    while start < len(envelopes):
        size = random.randint(1, most)
        yield envelopes[start : start + size]
        start += size
