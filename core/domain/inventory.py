"""Stock reservations: one an order, whole or not at all; and what becomes of the stock of many at once.

HELD -> CONFIRMED -> RELEASED, HELD -> RELEASED; FAILED took nothing and stays so. A release that comes before its
request leaves a reservation RELEASED at version 0, which refuses that request when it comes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from core.domain.events import (
    InventoryConfirmed,
    InventoryReleased,
    InventoryReservationFailed,
    InventoryReserved,
    OrderItem,
    Raised,
    ReserveInventory,
)


class ReservationStatus(StrEnum):
    HELD = "HELD"
    CONFIRMED = "CONFIRMED"
    RELEASED = "RELEASED"
    FAILED = "FAILED"


class Reservation(NamedTuple):
    status: ReservationStatus
    version: int
    """Events raised so far."""
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

    def reserve(self, command: ReserveInventory) -> Raised | None:
        """Take all of it, or nothing: InventoryReserved or InventoryReservationFailed; None if it was refused before.

        That it happens once an order is the inbox's promise, not checked here.
        """
        order_id, quantities = command.order_id, quantities_of(command.items)
        before = self.reservations.get(order_id)
        if before is not None and before.status is ReservationStatus.FAILED:
            return None
        version = before.version + 1 if before else 1
        if before is not None and before.status is ReservationStatus.RELEASED:
            return self._refuse(order_id, version, f"withdrawn before it was asked for: {before.reason}", ())
        short = tuple(sorted(p for p, count in quantities.items() if self.left.get(p, 0) + self.delta[p] < count))
        if short:
            return self._refuse(order_id, version, "not enough stock of " + ", ".join(map(str, short)), short)
        self.delta.subtract(quantities)
        self.taken += [(order_id, product, count) for product, count in sorted(quantities.items())]
        held = Counter(before.quantities if before else {})
        held.update(quantities)
        self._set(order_id, Reservation(ReservationStatus.HELD, version, held))
        reserved = InventoryReserved(order_id=order_id, items=command.items, total_amount=command.total_amount)
        return Raised(order_id, version, reserved)

    def is_held(self, order_id: str) -> bool:
        return self.reservations[order_id].status is ReservationStatus.HELD

    def confirm(self, order_id: str) -> Raised | None:
        """HELD becomes CONFIRMED; None if nothing is held."""
        before = self.reservations.get(order_id)
        if before is None or before.status is not ReservationStatus.HELD:
            return None
        self._set(order_id, before._replace(status=ReservationStatus.CONFIRMED, version=before.version + 1))
        return Raised(order_id, before.version + 1, InventoryConfirmed(order_id=order_id))

    def release(self, order_id: str, reason: str) -> Raised | None:
        """Put back what is held or confirmed; None if there is nothing to put back.

        Nothing was asked for yet: that is noted, and what is asked for later is refused.
        """
        before = self.reservations.get(order_id)
        if before is None:
            self._set(order_id, Reservation(ReservationStatus.RELEASED, 0, {}, reason))
            return None
        if before.status not in (ReservationStatus.HELD, ReservationStatus.CONFIRMED):
            return None
        self.delta.update(before.quantities)
        version = before.version + 1
        self._set(order_id, before._replace(status=ReservationStatus.RELEASED, version=version, reason=reason))
        return Raised(order_id, version, InventoryReleased(order_id=order_id, reason=reason))

    def _refuse(self, order_id: str, version: int, message: str, short: tuple[int, ...]) -> Raised:
        self._set(order_id, Reservation(ReservationStatus.FAILED, version, {}, message))
        failed = InventoryReservationFailed(order_id=order_id, error_message=message, short_items=short)
        return Raised(order_id, version, failed)

    def _set(self, order_id: str, reservation: Reservation) -> None:
        self.reservations[order_id] = reservation
        self.touched.add(order_id)
