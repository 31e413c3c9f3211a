"""Whether the shop's own books balance once everything is drained: stock, reservations, orders, answers.

Each invariant is judged from the ledger files it needs; one whose files the run did not write is not judged and says
so nowhere else than by its absence. A status this module does not know makes its invariant undecided, never passed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.checkers.facts import Facts, read_ledger

HOLDING = ("HELD", "CONFIRMED")
"""Reservations that keep stock away from others."""

NOT_HOLDING = ("RELEASED", "FAILED")

FILES = {
    "products": {"product_id": "VARCHAR", "initial_stock": "BIGINT", "stock": "BIGINT"},
    "stock_reservations": {
        "order_id": "VARCHAR",
        "product_id": "VARCHAR",
        "quantity": "BIGINT",
        "status": "VARCHAR",
    },
    "orders": {"order_id": "VARCHAR", "status": "VARCHAR", "total_amount": "DECIMAL(20, 2)"},
}


@dataclass(frozen=True)
class Invariant:
    passed: bool | None
    """None: undecided, which makes the verdict unknown."""
    detail: str


def shop_invariants(facts: Facts) -> dict[str, Invariant]:
    """Name -> judgement, for those whose ledger files exist. Meaningful only after a complete drain."""
    present = {name for name in FILES if facts.has_ledger(name)}
    for name in sorted(present):
        read_ledger(facts.database, facts.folder, name, FILES[name])
    return {name: judge(facts) for name, (needs, judge) in INVARIANTS.items() if needs <= present}


def _stock_conserved(facts: Facts) -> Invariant:
    strange = facts.rows(
        "SELECT DISTINCT status FROM ledger_stock_reservations WHERE upper(status) NOT IN (SELECT unnest(?))",
        [*HOLDING, *NOT_HOLDING],
    )
    if strange:
        return Invariant(None, f"reservations have a status that is not understood: {strange[0][0]}")
    wrong = facts.rows(
        """SELECT p.product_id, p.initial_stock, p.stock, coalesce(h.held, 0)::BIGINT
        FROM ledger_products p FULL JOIN (
            SELECT product_id, sum(quantity) AS held FROM ledger_stock_reservations
            WHERE upper(status) IN (SELECT unnest(?)) GROUP BY product_id) h ON h.product_id = p.product_id
        WHERE p.product_id IS NULL OR p.initial_stock - p.stock <> coalesce(h.held, 0) ORDER BY 1""",
        list(HOLDING),
    )
    if not wrong:
        products = facts.one("SELECT count(*) FROM ledger_products")
        return Invariant(True, f"{products} products: initial stock = stock + what reservations hold")
    product, initial, stock, held = wrong[0]
    return Invariant(
        False, f"{len(wrong)} products do not balance, e.g. {product}: {initial} at first, {stock} now, {held} held"
    )


def _stock_not_negative(facts: Facts) -> Invariant:
    below = facts.one("SELECT count(*) FROM ledger_products WHERE stock < 0")
    return Invariant(below == 0, f"{below} products have less than nothing in stock")


def _reservation_has_order(facts: Facts) -> Invariant:
    orphans = facts.one(
        "SELECT count(DISTINCT order_id) FROM ledger_stock_reservations"
        " WHERE order_id NOT IN (SELECT order_id FROM ledger_orders)"
    )
    return Invariant(orphans == 0, f"{orphans} reservations are for an order that does not exist")


def _answer_has_order(facts: Facts) -> Invariant:
    orphans = facts.one(
        "SELECT count(*) FROM request"
        " WHERE order_id IS NOT NULL AND order_id NOT IN (SELECT order_id FROM ledger_orders)"
    )
    return Invariant(orphans == 0, f"{orphans} stored answers name an order that does not exist")


def _one_order_per_request(facts: Facts) -> Invariant:
    shared = facts.one(
        "SELECT count(*) FROM"
        " (SELECT order_id FROM request WHERE order_id IS NOT NULL GROUP BY order_id HAVING count(*) > 1)"
    )
    return Invariant(shared == 0, f"{shared} orders answer more than one idempotency key")


INVARIANTS: dict[str, tuple[frozenset[str], Callable[[Facts], Invariant]]] = {
    "stock_conserved": (frozenset({"products", "stock_reservations"}), _stock_conserved),
    "stock_not_negative": (frozenset({"products"}), _stock_not_negative),
    "reservation_has_order": (frozenset({"stock_reservations", "orders"}), _reservation_has_order),
    "answer_has_order": (frozenset({"orders"}), _answer_has_order),
    "one_order_per_request": (frozenset({"orders"}), _one_order_per_request),
}
