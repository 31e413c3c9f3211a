"""Whether the shop's own books balance once everything is drained: stock, reservations, money, sagas, answers.

Each invariant is judged from the ledger files it needs; one whose files the run did not write is not judged and says
so nowhere else than by its absence. A status this module does not know makes its invariant undecided, never passed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.checkers.facts import Facts, read_ledger
from history.reader import BrokenHistory

HOLDING = ("HELD", "CONFIRMED")
"""Reservations that keep stock away from others."""

NOT_HOLDING = ("RELEASED", "FAILED")

NOT_PAID_FOR = ("PENDING", "CONFIRMED", "CANCELLED")

PAID_FOR = ("PAID", "SHIPPED", "DELIVERED")
"""Orders whose money and stock the shop has moved; those in other states moved nothing, or it was put back."""

PAYMENTS = ("PENDING", "COMPLETED", "FAILED", "CANCELLED")

ENDED = ("COMPLETED", "CANCELLED")
"""Sagas that have nothing left to do."""

FILES = {
    "products": {"product_id": "VARCHAR", "initial_stock": "BIGINT", "stock": "BIGINT"},
    "stock_reservations": {
        "order_id": "VARCHAR",
        "product_id": "VARCHAR",
        "quantity": "BIGINT",
        "status": "VARCHAR",
    },
    "orders": {"order_id": "VARCHAR", "status": "VARCHAR", "total_amount": "DECIMAL(20, 2)"},
    "order_lines": {"order_id": "VARCHAR", "product_id": "VARCHAR", "quantity": "BIGINT"},
    "payments": {
        "transaction_key": "VARCHAR",
        "order_id": "VARCHAR",
        "status": "VARCHAR",
        "amount": "DECIMAL(20, 2)",
    },
    "sagas": {"order_id": "VARCHAR", "step": "VARCHAR", "status": "VARCHAR", "failure": "VARCHAR"},
    "outside_calls": {"kind": "VARCHAR", "key": "VARCHAR", "amount": "DECIMAL(20, 2)", "did_work": "BOOLEAN"},
    "deliveries": {"kind": "VARCHAR", "key": "VARCHAR"},
    "product_metrics": {"product_id": "VARCHAR", "views": "BIGINT"},
}

MAY_LACK = ("failure",)
"""A saga that did not fail has none. Any other field that were absent would compare as neither right nor wrong."""


def _in_sql(words: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"'{word}'" for word in words) + ")"


_HOLDING, _PAID_FOR, _ENDED = _in_sql(HOLDING), _in_sql(PAID_FOR), _in_sql(ENDED)


@dataclass(frozen=True)
class Invariant:
    passed: bool | None
    """None: undecided, which makes the verdict unknown."""
    detail: str


def shop_invariants(facts: Facts) -> dict[str, Invariant]:
    """Name -> judgement, for those whose ledger files exist. Meaningful only after a complete drain.

    Raises BrokenHistory for a line that lacks a field.
    """
    present = {name for name in FILES if facts.has_ledger(name)}
    for name in sorted(present):
        read_ledger(facts.database, facts.folder, name, FILES[name])
        needed = [column for column in FILES[name] if column not in MAY_LACK]
        lacking = " OR ".join(f"{column} IS NULL" for column in needed)
        if facts.rows(f"SELECT 1 FROM ledger_{name} WHERE {lacking} LIMIT 1"):
            raise BrokenHistory(f"ledger/{name}.ndjson has a line without one of {', '.join(needed)}")
    return {name: judge(facts) for name, (needs, judge) in INVARIANTS.items() if needs <= present}


def _not_understood(facts: Facts, name: str, words: tuple[str, ...]) -> Invariant | None:
    """Undecided, if a row of `ledger_<name>` has a status of none of these words."""
    strange = facts.one(f"SELECT min(status) FROM ledger_{name} WHERE status NOT IN {_in_sql(words)}")
    return None if strange is None else Invariant(None, f"{name} have a status that is not understood: {strange}")


def _strange_order(facts: Facts) -> Invariant | None:
    return _not_understood(facts, "orders", (*PAID_FOR, *NOT_PAID_FOR))


def _stock_conserved(facts: Facts) -> Invariant:
    strange = _not_understood(facts, "stock_reservations", (*HOLDING, *NOT_HOLDING))
    if strange:
        return strange
    wrong = facts.rows(
        """SELECT coalesce(p.product_id, h.product_id), p.initial_stock, p.stock, coalesce(h.held, 0)::BIGINT
        FROM ledger_products p FULL JOIN (
            SELECT product_id, sum(quantity) AS held FROM ledger_stock_reservations
            WHERE status IN (SELECT unnest(?)) GROUP BY product_id) h ON h.product_id = p.product_id
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
    return Invariant(orphans == 0, f"{orphans} orders that do not exist have reservations")


def _answer_has_order(facts: Facts) -> Invariant:
    orphans = facts.one(
        # Without orders, as below the API, NULL is not in the empty set either.
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


def _stock_follows_order(facts: Facts) -> Invariant:
    strange = _not_understood(facts, "stock_reservations", (*HOLDING, *NOT_HOLDING)) or _strange_order(facts)
    if strange:
        return strange
    wrong = facts.rows(
        f"""SELECT order_id, o.status, product_id, sum(wanted)::BIGINT, sum(held)::BIGINT FROM (
            SELECT order_id, product_id, quantity AS wanted, 0 AS held FROM ledger_order_lines
                WHERE order_id IN (SELECT order_id FROM ledger_orders WHERE status IN {_PAID_FOR})
            UNION ALL SELECT order_id, product_id, 0, quantity FROM ledger_stock_reservations
                WHERE status IN {_HOLDING})
        JOIN ledger_orders o USING (order_id) WHERE o.status IN {_PAID_FOR} OR o.status = 'CANCELLED'
        GROUP BY ALL HAVING sum(wanted) <> sum(held) ORDER BY 1, 3"""
    )
    if not wrong:
        return Invariant(True, "every paid order holds what it asks for, and every cancelled one nothing")
    order, status, product, wanted, held = wrong[0]
    return Invariant(
        False,
        f"{len(wrong)} lines of orders, e.g. {order} ({status}) should hold {wanted} of product {product}, not {held}",
    )


def _payment_follows_order(facts: Facts) -> Invariant:
    strange = _strange_order(facts) or _not_understood(facts, "payments", PAYMENTS)
    if strange:
        return strange
    wrong = facts.rows(
        f"""SELECT o.order_id, o.status, coalesce(p.status, 'none') FROM ledger_orders o
        LEFT JOIN ledger_payments p ON p.order_id = o.order_id
        WHERE (o.status IN {_PAID_FOR}) <> (coalesce(p.status, 'none') = 'COMPLETED')
            OR (p.status = 'COMPLETED' AND p.amount <> o.total_amount) ORDER BY 1"""
    )
    if not wrong:
        return Invariant(True, "exactly the orders that were paid have a completed payment, of their amount")
    order, status, payment = wrong[0]
    return Invariant(False, f"{len(wrong)} orders, e.g. {order} is {status}, its payment {payment}")


def _money_conserved(facts: Facts) -> Invariant:
    strange = _strange_order(facts)
    if strange:
        return strange
    wrong = facts.rows(
        f"""WITH moved AS (SELECT key, sum(amount) AS amount FROM ledger_outside_calls
                WHERE kind IN ('payments', 'cancels', 'settlements') GROUP BY key),
            owed AS (SELECT coalesce(p.transaction_key, o.order_id) AS key,
                CASE WHEN o.status IN {_PAID_FOR} THEN o.total_amount ELSE 0 END AS amount
                FROM ledger_orders o LEFT JOIN ledger_payments p ON p.order_id = o.order_id)
        SELECT key, coalesce(owed.amount, 0), coalesce(moved.amount, 0) FROM owed FULL JOIN moved USING (key)
        WHERE coalesce(owed.amount, 0) <> coalesce(moved.amount, 0) ORDER BY 1"""
    )
    if not wrong:
        charged = facts.one("SELECT count(*) FROM ledger_outside_calls WHERE kind = 'payments' AND amount > 0")
        return Invariant(True, f"{charged} charges: what was charged and kept is the total of each paid order")
    key, owed, moved = wrong[0]
    return Invariant(False, f"{len(wrong)} payments, e.g. {key}: {moved} charged less refunded, {owed} owed")


def _delivered_once(facts: Facts) -> Invariant:
    """A mail is one (order or ticket, type, seller), which its key says; so is a push, an SMS or a record its event."""
    wrong = facts.rows(
        """WITH done AS (SELECT kind, key, count(*) AS times FROM ledger_outside_calls
            WHERE did_work AND kind IN ('mails', 'pushes', 'sms', 'records') GROUP BY ALL)
        SELECT kind, key, coalesce(times, 0), d.key IS NULL FROM done FULL JOIN ledger_deliveries d USING (kind, key)
        WHERE coalesce(times, 0) <> 1 OR d.key IS NULL ORDER BY 1, 2"""
    )
    if not wrong:
        deliveries = facts.one("SELECT count(*) FROM ledger_deliveries")
        return Invariant(True, f"each of {deliveries} mails, pushes, SMS and records was delivered once")
    kind, key, times, is_nobodys = wrong[0]
    whose = "nobody asked for" if is_nobodys else "asked for once"
    return Invariant(False, f"{len(wrong)} deliveries, e.g. of {kind} {key}: delivered {times} times, {whose}")


def _final_states_kept(facts: Facts) -> Invariant:
    wrong = facts.rows(
        """SELECT c.aggregate_id, o.status, n.last_sequence - c.sequence FROM event c
        JOIN (SELECT aggregate_id, max(sequence) AS last_sequence FROM event WHERE lower(aggregate_type) = 'order'
            GROUP BY aggregate_id) n ON n.aggregate_id = c.aggregate_id
        JOIN ledger_orders o ON o.order_id = c.aggregate_id
        WHERE c.type = 'OrderCancelled' AND (n.last_sequence > c.sequence OR o.status <> 'CANCELLED') ORDER BY 1"""
    )
    if not wrong:
        return Invariant(True, "no order changed after it was cancelled, and none was cancelled after its delivery")
    order, status, later = wrong[0]
    return Invariant(False, f"{len(wrong)} orders, e.g. {order} was cancelled, changed {later} times since: {status}")


def _no_hung_saga(facts: Facts) -> Invariant:
    hung = facts.rows(f"SELECT order_id, status, step FROM ledger_sagas WHERE status NOT IN {_ENDED} ORDER BY 1")
    if not hung:
        return Invariant(True, f"{facts.one('SELECT count(*) FROM ledger_sagas')} sagas, each at its end")
    order, status, step = hung[0]
    return Invariant(False, f"{len(hung)} sagas hang, e.g. that of {order} is {status} at {step}")


def _views_counted(facts: Facts) -> Invariant:
    """A view has no order, stock or money beside it: a count that another one overwrote is missed nowhere else. One
    that was counted twice stands twice on both sides; as an effect it is doubled."""
    wrong = facts.rows(
        """SELECT product_id, coalesce(m.views, 0), coalesce(c.views, 0) FROM ledger_product_metrics m FULL JOIN (
            SELECT e.aggregate_id AS product_id, count(*) AS views FROM effect f JOIN event e USING (id)
            WHERE f.g = 'product-metrics' AND f.effect = 'view_counted' GROUP BY e.aggregate_id) c USING (product_id)
        WHERE coalesce(m.views, 0) <> coalesce(c.views, 0) ORDER BY 1"""
    )
    if not wrong:
        views = facts.one("SELECT coalesce(sum(views), 0)::BIGINT FROM ledger_product_metrics")
        return Invariant(True, f"{views} views: each product has as many as were counted")
    product, views, counted = wrong[0]
    return Invariant(False, f"{len(wrong)} products, e.g. {product} has {views} views, and {counted} were counted")


INVARIANTS: dict[str, tuple[frozenset[str], Callable[[Facts], Invariant]]] = {
    "stock_conserved": (frozenset({"products", "stock_reservations"}), _stock_conserved),
    "stock_not_negative": (frozenset({"products"}), _stock_not_negative),
    "reservation_has_order": (frozenset({"stock_reservations", "orders"}), _reservation_has_order),
    "stock_follows_order": (frozenset({"orders", "order_lines", "stock_reservations"}), _stock_follows_order),
    "payment_follows_order": (frozenset({"orders", "payments"}), _payment_follows_order),
    "money_conserved": (frozenset({"orders", "payments", "outside_calls"}), _money_conserved),
    "delivered_once": (frozenset({"outside_calls", "deliveries"}), _delivered_once),
    "final_states_kept": (frozenset({"orders"}), _final_states_kept),
    "no_hung_saga": (frozenset({"sagas"}), _no_hung_saga),
    "views_counted": (frozenset({"product_metrics"}), _views_counted),
    "answer_has_order": (frozenset({"orders"}), _answer_has_order),
    "one_order_per_request": (frozenset({"orders"}), _one_order_per_request),
}
