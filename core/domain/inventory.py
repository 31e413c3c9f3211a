"""Stock reservations: one an order, whole or not at all; and what becomes of the stock of many at once.

HELD -> CONFIRMED -> RELEASED, HELD -> RELEASED; FAILED took nothing and stays so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from core.domain.events import OrderItem


class ReservationStatus(StrEnum):
    HELD = "HELD"
    CONFIRMED = "CONFIRMED"
    RELEASED = "RELEASED"
    FAILED = "FAILED"


class Reservation(NamedTuple):
    status: ReservationStatus
    version: int
    quantities: Mapping[int, int]
    """Product id -> how many it has taken from the stock."""
    reason: str | None = None


def quantities_of(items: Iterable[OrderItem]) -> Mapping[int, int]:
    """How many of each product, its lines summed."""
    quantities: Counter[int] = Counter()
    for item in items:
        quantities[item.product_id] += item.quantity
    return quantities


@dataclass
class Stock:
    """The part of the stock that one batch touches; changes are collected, to be written in key order afterwards."""

    left: Mapping[int, int]
    """Product id -> pieces left before this batch; absent: there is no such product."""
    reservations: dict[str, Reservation]
    """By order id; those that exist, and then those made."""
    delta: Counter[int] = field(default_factory=Counter)
    """Product id -> pieces put back (positive) or taken (negative)."""
    taken: list[tuple[str, int, int]] = field(default_factory=list)
    """Order id, product id, pieces: taken in this batch."""
    touched: set[str] = field(default_factory=set)
    """Order ids whose reservation changed."""

    def reserve(self, order_id: str, quantities: Mapping[int, int]) -> bool:
        """Take all of it, or nothing. That it happens once an order is the inbox's promise, not checked here."""
        before = self.reservations.get(order_id)
        version = before.version + 1 if before else 1
        short = sorted(p for p, count in quantities.items() if self.left.get(p, 0) + self.delta[p] < count)
        if short:
            reason = "not enough stock of " + ", ".join(map(str, short))
            self._set(order_id, Reservation(ReservationStatus.FAILED, version, {}, reason))
            return False
        self.delta.subtract(quantities)
        self.taken += [(order_id, product, count) for product, count in sorted(quantities.items())]
        held = Counter(before.quantities if before else {})
        held.update(quantities)
        self._set(order_id, Reservation(ReservationStatus.HELD, version, held))
        return True

    def confirm(self, order_id: str) -> bool:
        """HELD becomes CONFIRMED; False if nothing is held."""
        before = self.reservations.get(order_id)
        if before is None or before.status is not ReservationStatus.HELD:
            return False
        self._set(order_id, before._replace(status=ReservationStatus.CONFIRMED, version=before.version + 1))
        return True

    def release(self, order_id: str, reason: str) -> bool:
        """Put back what is held or confirmed; False if there is nothing to put back."""
        before = self.reservations.get(order_id)
        if before is None or before.status not in (ReservationStatus.HELD, ReservationStatus.CONFIRMED):
            return False
        self.delta.update(before.quantities)
        self._set(
            order_id, before._replace(status=ReservationStatus.RELEASED, version=before.version + 1, reason=reason)
        )
        return True

    def _set(self, order_id: str, reservation: Reservation) -> None:
        self.reservations[order_id] = reservation
        self.touched.add(order_id)
