"""What a customer earns: points for money paid, a coupon for an application, used with the next payment."""

from decimal import Decimal

AMOUNT_PER_POINT = Decimal("10.00")
POINTS_PER_TICKET = 100


def points_for(amount: Decimal) -> int:
    """Whole points only."""
    return int(amount // AMOUNT_PER_POINT)
