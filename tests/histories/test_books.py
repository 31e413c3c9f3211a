"""The shop's books at their edges: what each invariant calls broken, what it names of it, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.shop import Invariant
from analysis.checkers.verdict import judge_folder
from tests.histories.test_literal_histories import Tiny
from tests.histories.writing import Run

Rows = list[dict[str, Any]]


class Shop(Tiny):
    """Orders o1 to o3, each of two of product p1 for 20.00, paid, with a mail; p2 is in stock and nobody wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.event("e").done("e")
        self.ledger |= {
            "products": [
                {"product_id": "p1", "initial_stock": 10, "stock": 4},
                {"product_id": "p2", "initial_stock": 5, "stock": 5},
            ]
        }
        for name in ("stock_reservations", "orders", "order_lines", "payments", "sagas", "outside_calls", "deliveries"):
            self.ledger[name] = []
        self.ledger["product_metrics"] = [{"product_id": "p1", "views": 0}]
        for order in ("o1", "o2", "o3"):
            self.put("orders", order_id=order, status="PAID", total_amount="20.00")
            self.put("order_lines", order_id=order, product_id="p1", quantity=2)
            self.put("stock_reservations", order_id=order, product_id="p1", quantity=2, status="HELD")
            self.put("payments", transaction_key=f"pay-{order}", order_id=order, status="COMPLETED", amount="20.00")
            self.put("sagas", order_id=order, step="PAYMENT_COMPLETED", status="COMPLETED", failure=None)
            self.call("payments", f"pay-{order}", 20)
            self.call("mails", f"mail-{order}")
            self.put("deliveries", kind="mails", key=f"mail-{order}")

    def put(self, file: str, **row: Any) -> None:
        self.ledger[file].append(row)

    def call(self, kind: str, key: str, amount: float = 0, did_work: bool = True) -> None:
        self.put("outside_calls", kind=kind, key=key, amount=amount, did_work=did_work)

    def row(self, file: str, **wanted: Any) -> dict[str, Any]:
        return next(row for row in self.ledger[file] if wanted.items() <= row.items())

    def drop(self, file: str, **wanted: Any) -> None:
        self.ledger[file] = [row for row in self.ledger[file] if not wanted.items() <= row.items()]

    def order(self, order: str, status: str) -> None:
        """One that has nothing: no line, no stock, no payment."""
        self.put("orders", order_id=order, status=status, total_amount="20.00")


def invariants(run: Run, folder: Path) -> dict[str, Invariant]:
    found = judge_folder(run.write(folder))
    assert found.invariants, found.reasons
    return found.invariants


def balanced(shop: Shop) -> None:
    pass


def sold_out(shop: Shop) -> None:
    shop.row("products", product_id="p1").update(initial_stock=6, stock=0)


def on_its_way(shop: Shop) -> None:
    for order, status in (("o1", "SHIPPED"), ("o2", "DELIVERED")):
        shop.row("orders", order_id=order)["status"] = status
        shop.row("stock_reservations", order_id=order)["status"] = "CONFIRMED"


def not_yet_paid(shop: Shop) -> None:
    """Stock is kept for the second; nothing was charged for either."""
    shop.order("o4", "PENDING")
    shop.order("o5", "CONFIRMED")
    for order, status in (("o4", "PENDING"), ("o5", "FAILED")):
        shop.put("payments", transaction_key=f"pay-{order}", order_id=order, status=status, amount="20.00")
    shop.put("stock_reservations", order_id="o5", product_id="p2", quantity=1, status="HELD")
    shop.row("products", product_id="p2")["stock"] = 4


def reserved_in_vain(shop: Shop) -> None:
    shop.order("o4", "CANCELLED")
    shop.put("stock_reservations", order_id="o4", product_id="p2", quantity=9, status="FAILED")


def paid_back(shop: Shop) -> None:
    """Its payment was once asked with another amount."""
    shop.order("o4", "CANCELLED")
    shop.put("payments", transaction_key="pay-o4", order_id="o4", status="CANCELLED", amount="19.00")
    shop.call("payments", "pay-o4", 20)
    shop.call("cancels", "pay-o4", -20)


def cancelled_at_last(shop: Shop) -> None:
    """Of another aggregate with the same id a later event tells."""
    shop.order("o4", "CANCELLED")
    for id_, sequence, of, type_ in (
        ("x", 1, "Order", "OrderCreated"), ("y", 2, "Order", "OrderCancelled"), ("z", 9, "Saga", "X")
    ):  # fmt: skip
        shop.event(id_, sequence, "o4", type_=type_, of=of)


def wanted_twice(shop: Shop) -> None:
    """Two lines alike, whose stock is reserved as one."""
    shop.row("stock_reservations", order_id="o1")["quantity"] = 4
    shop.put("order_lines", order_id="o1", product_id="p1", quantity=2)
    shop.row("products", product_id="p1")["stock"] = 2


def answered_without_an_order(shop: Shop) -> None:
    """Two requests were rejected, and that was stored."""
    for key in ("a", "b"):
        shop.put("requests", idempotency_key=key, order_id=None)
    shop.put("requests", idempotency_key="c", order_id="o1")


def a_mail_with_an_amount(shop: Shop) -> None:
    shop.row("outside_calls", kind="mails")["amount"] = 5


def a_view_counted_twice(shop: Shop) -> None:
    """The effect is doubled, and so is the count: that is no book's affair."""
    shop.effect("e", "view_counted", "product-metrics").effect("e", "view_counted", "product-metrics")
    shop.put("product_metrics", product_id="k", views=2)


def every_kind_of_delivery(shop: Shop) -> None:
    """The same key in each; one call was told to fail first."""
    for kind in ("pushes", "sms", "records"):
        shop.put("deliveries", kind=kind, key="k")
        shop.call(kind, "k", did_work=False)
        shop.call(kind, "k")


@pytest.mark.parametrize(
    "change",
    [
        balanced, sold_out, on_its_way, not_yet_paid, reserved_in_vain, paid_back, cancelled_at_last, wanted_twice,
        answered_without_an_order, a_mail_with_an_amount, every_kind_of_delivery,
        a_view_counted_twice,
    ],
)  # fmt: skip
def test_books_in_order_are_called_so(change: Callable[[Shop], None], tmp_path: Path) -> None:
    shop = Shop()
    change(shop)
    found = judge_folder(shop.write(tmp_path))
    assert {name: judged.detail for name, judged in found.invariants.items() if not judged.passed} == {}
    assert len(found.invariants) == 12


def a_ghosts_stock(shop: Shop) -> None:
    shop.put("stock_reservations", order_id="o1", product_id="p9", quantity=0, status="HELD")
    shop.put("stock_reservations", order_id="o1", product_id="p8", quantity=0, status="HELD")


def stock_gone(shop: Shop) -> None:
    """Of a product that nobody reserved; and of one that was."""
    for product, stock in (("p2", 4), ("p1", 2)):
        shop.row("products", product_id=product)["stock"] = stock


def stock_gone_unreserved(shop: Shop) -> None:
    shop.row("products", product_id="p2")["stock"] = 4


def ghosts_reservations(shop: Shop) -> None:
    for _ in range(2):
        shop.put("stock_reservations", order_id="o9", product_id="p1", quantity=0, status="RELEASED")


def too_little_reserved(shop: Shop) -> None:
    """Of two products of the second order, and of one of the first."""
    shop.row("order_lines", order_id="o1")["quantity"] = 5
    shop.row("stock_reservations", order_id="o1")["quantity"] = 3
    shop.row("order_lines", order_id="o2")["quantity"] = 5
    shop.put("order_lines", order_id="o1", product_id="p2", quantity=1)
    shop.row("products", product_id="p1")["stock"] = 3


def never_paid(shop: Shop) -> None:
    """Two orders say that they were, and no payment and no charge was ever asked for."""
    for order in ("o4", "o5"):
        shop.order(order, "PAID")


def charged_nobody(shop: Shop) -> None:
    for key in ("pay-x", "pay-y"):
        shop.call("payments", key, 1)


def never_charged(shop: Shop) -> None:
    shop.drop("outside_calls", key="pay-o2")


def changed_after_the_end(shop: Shop) -> None:
    for order in ("o5", "o4"):
        shop.order(order, "CANCELLED")
        shop.event(f"{order}-1", 4, order, type_="OrderCancelled", of="Order")
        shop.event(f"{order}-2", 5, order, type_="OrderPaid", of="Order")
        shop.event(f"{order}-3", 6, order, type_="OrderShipped", of="Order")


def hung(shop: Shop) -> None:
    shop.row("sagas", order_id="o3")["status"] = "RUNNING"
    shop.row("sagas", order_id="o2").update(status="COMPENSATING", step="INVENTORY_RESERVED")


def mailed_twice(shop: Shop) -> None:
    for order in ("o3", "o2"):
        shop.call("mails", f"mail-{order}")
    shop.call("pushes", "k")


def pushed_twice(shop: Shop) -> None:
    every_kind_of_delivery(shop)
    shop.call("pushes", "k")


def texted_twice(shop: Shop) -> None:
    every_kind_of_delivery(shop)
    shop.call("sms", "k")


def recorded_twice(shop: Shop) -> None:
    every_kind_of_delivery(shop)
    shop.call("records", "k")


def a_view_overwritten(shop: Shop) -> None:
    """Two views of product k, one of which the other wrote over; and views that nobody counted."""
    shop.effect("e", "view_counted", "product-metrics").effect("e", "view_counted", "product-metrics")
    shop.effect("e", "likes_changed", "product-metrics").effect("e", "view_counted", "another-group")
    shop.put("product_metrics", product_id="k", views=1)
    shop.put("product_metrics", product_id="p2", views=3)


BROKEN: list[tuple[Callable[[Shop], None], str, str]] = [
    (a_ghosts_stock, "stock_conserved", "2 products do not balance, e.g. p8: None at first, None now, 0 held"),
    (stock_gone, "stock_conserved", "2 products do not balance, e.g. p1: 10 at first, 2 now, 6 held"),
    (
        stock_gone_unreserved,
        "stock_conserved",
        "1 products do not balance, e.g. p2: 5 at first, 4 now, 0 held",
    ),
    (ghosts_reservations, "reservation_has_order", "1 orders that do not exist have reservations"),
    (
        too_little_reserved,
        "stock_follows_order",
        "3 lines of orders, e.g. o1 (PAID) should hold 5 of product p1, not 3",
    ),
    (never_paid, "payment_follows_order", "2 orders, e.g. o4 is PAID, its payment none"),
    (never_paid, "money_conserved", "2 payments, e.g. o4: 0.00 charged less refunded, 20.00 owed"),
    (charged_nobody, "money_conserved", "2 payments, e.g. pay-x: 1.00 charged less refunded, 0.00 owed"),
    (never_charged, "money_conserved", "1 payments, e.g. pay-o2: 0.00 charged less refunded, 20.00 owed"),
    (changed_after_the_end, "final_states_kept", "2 orders, e.g. o4 was cancelled, changed 2 times since: CANCELLED"),
    (hung, "no_hung_saga", "2 sagas hang, e.g. that of o2 is COMPENSATING at INVENTORY_RESERVED"),
    (a_view_overwritten, "views_counted", "2 products, e.g. k has 1 views, and 2 were counted"),
    (mailed_twice, "delivered_once", "3 deliveries, e.g. of mails mail-o2: delivered 2 times, asked for once"),
    (pushed_twice, "delivered_once", "1 deliveries, e.g. of pushes k: delivered 2 times, asked for once"),
    (texted_twice, "delivered_once", "1 deliveries, e.g. of sms k: delivered 2 times, asked for once"),
    (recorded_twice, "delivered_once", "1 deliveries, e.g. of records k: delivered 2 times, asked for once"),
]


@pytest.mark.parametrize(("change", "name", "said"), BROKEN)
def test_a_broken_book_says_how_many_and_names_the_first(
    change: Callable[[Shop], None], name: str, said: str, tmp_path: Path
) -> None:
    shop = Shop()
    change(shop)
    found = invariants(shop, tmp_path)[name]
    assert (found.passed, found.detail) == (False, said)


def test_a_payment_that_was_pending_first_is_settled_and_not_charged_twice(tmp_path: Path) -> None:
    shop = Shop()
    shop.row("outside_calls", key="pay-o1")["amount"] = 0
    shop.call("settlements", "pay-o1", 20)
    found = invariants(shop, tmp_path)["money_conserved"]
    said = "2 charges: what was charged and kept is the total of each paid order"
    assert (found.passed, found.detail) == (True, said)


def test_a_status_that_is_not_understood_is_named_the_first_of_several(tmp_path: Path) -> None:
    shop = Shop()
    shop.row("orders", order_id="o1")["status"] = "paid"
    shop.row("orders", order_id="o2")["status"] = "MAYBE"
    found = invariants(shop, tmp_path)
    said = "orders have a status that is not understood: MAYBE"
    for name in ("stock_follows_order", "payment_follows_order", "money_conserved"):
        assert (found[name].passed, found[name].detail) == (None, said)


def test_a_payment_of_a_status_nobody_knows_leaves_open_whether_a_cancelled_order_was_paid(tmp_path: Path) -> None:
    shop = Shop()
    paid_back(shop)
    shop.row("payments", order_id="o4")["status"] = "TAKEN"
    found = invariants(shop, tmp_path)
    assert {name for name, judged in found.items() if not judged.passed} == {"payment_follows_order"}
    said = "payments have a status that is not understood: TAKEN"
    assert (found["payment_follows_order"].passed, found["payment_follows_order"].detail) == (None, said)


def test_an_invariant_is_judged_where_just_its_own_files_were_written(tmp_path: Path) -> None:
    run = Tiny().event("e").done("e")
    run.ledger["products"] = [{"product_id": "p", "initial_stock": 1, "stock": 1}]
    assert list(invariants(run, tmp_path)) == ["stock_not_negative"]


def test_books_that_do_not_balance_before_the_drain_ended_are_a_doubt_and_no_proof(tmp_path: Path) -> None:
    shop = Shop()
    stock_gone_unreserved(shop)
    shop.run["drain"]["complete"] = False
    found = judge_folder(shop.write(tmp_path))
    assert found.word == "unknown"
    assert any(reason.startswith("invariant stock_conserved is broken: 1 products") for reason in found.reasons)


def test_answers_that_name_no_order_are_even_where_there_is_no_order_at_all(tmp_path: Path) -> None:
    """A load below the API has requests and makes no order."""
    run = Shop()
    for name in ("orders", "order_lines", "stock_reservations", "payments", "sagas", "outside_calls", "deliveries"):
        run.ledger[name] = []
    run.put("products", product_id="p3", initial_stock=1, stock=1)
    run.row("products", product_id="p1")["stock"] = 10
    run.ledger["requests"] = [{"idempotency_key": "k", "order_id": None}]
    assert invariants(run, tmp_path)["answer_has_order"].passed
