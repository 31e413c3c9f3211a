"""Orders over HTTP against a real server and a real PostgreSQL: what is answered, and what is written."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import requests
from sqlalchemy import text
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError

from core.commands.context import envelope_of, new_uuid7, utc_now
from core.domain.events import ConfirmOrder, Raised, to_json
from core.effects.order_service import obey
from core.inbox.writing import GroupWriting
from core.outbox.rows import OutboxSink
from core.storage.database import create_database_engine
from tests.system.api_server import ORDER, Api, api_on, problem_of, served
from tests.waiting import until


@pytest.fixture
def api(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        yield running


@pytest.mark.parametrize("path", ["/api/v1/orders", "/api/orders"])
@pytest.mark.row("S0.4", "S2.1")
def test_an_order_is_answered_201_with_its_total_and_is_there_with_its_event(api: Api, path: str) -> None:
    answer = api.call("POST", path, json=ORDER, headers={"Idempotency-Key": "k-1"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["totalAmount"]) == ("PENDING", 200.00)
    assert body["orderNumber"].isdigit()
    with api.engine.connect() as connection:
        event = connection.execute(text("SELECT * FROM event JOIN pending USING (id)")).one()
    assert (event.aggregate_id, event.sequence, event.event_type) == (body["id"], 1, "OrderCreated")
    assert (event.correlation_id, event.topic) == ("k-1", "order-events")
    assert json.loads(event.payload)["buyerEmail"] == "c-1@example.org"
    assert api.call("GET", f"{path}/{body['id']}").json() == body


def test_the_same_key_gets_the_same_answer_again_also_after_a_restart(api: Api) -> None:
    first = api.post(key="k-1")
    second = api.post(key="k-1")
    with served(api.app()) as api.url:
        third = api.post(key="k-1")
    assert {(r.status_code, r.content) for r in (first, second, third)} == {(201, first.content)}
    assert api.written() == (1, 1, 1, 1, 1)


def test_twenty_concurrent_requests_with_one_key_make_one_order(api: Api) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: api.post(key="k-1"), range(20)))
    assert {(r.status_code, r.content) for r in answers} == {(201, answers[0].content)}
    assert api.written() == (1, 1, 1, 1, 1)


def test_a_key_used_for_another_body_is_refused_and_nothing_is_written(api: Api) -> None:
    api.post(key="k-1")
    assert "k-1" in problem_of(api.post({"items": [{"productId": 1, "quantity": 3}]}, key="k-1"), 422)["detail"]
    assert api.written() == (1, 1, 1, 1, 1)


def test_two_customers_may_use_the_same_key(api: Api) -> None:
    assert api.post(key="k-1").json()["id"] != api.post(key="k-1", customer="c-2").json()["id"]


def test_a_repeat_gets_its_answer_although_the_price_has_changed_since(api: Api) -> None:
    first = api.post(key="k-1")
    with api.engine.begin() as connection:
        connection.execute(text("UPDATE product SET price = 150 WHERE id = 1"))
    assert api.post(key="k-1").content == first.content
    assert "150.00" in problem_of(api.post(key="k-2"), 422)["detail"]


@pytest.mark.row("S2.2")
def test_another_customer_s_order_is_404_like_one_that_does_not_exist(api: Api) -> None:
    order_id = api.post().json()["id"]
    problem_of(api.call("GET", f"/api/v1/orders/{order_id}", customer="c-2"), 404)
    problem_of(api.call("GET", "/api/v1/orders/019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11"), 404)
    problem_of(api.call("GET", "/api/v1/orders/not-a-uuid"), 404)


ITEM = '{"productId":1,"quantity":1}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, ""),
        (400, "{"),
        (400, "\xff"),
        (400, '{"items":[{"productId":1,"quantity":1,"price":NaN}]}'),
        (400, f'{{"items":[{ITEM}],"shippingAddress":"\\ud800"}}'),
        (400, "[" * 100_000),
        (400, '{"a":' * 40_000),
        (422, "null"),
        (422, "[]"),
        (422, "{}"),
        (422, '{"items":[]}'),
        (422, f'{{"items":[{",".join([ITEM] * 101)}]}}'),
        (422, '{"items":[{"productId":1,"quantity":0}]}'),
        (422, '{"items":[{"productId":1,"quantity":-1}]}'),
        (422, '{"items":[{"productId":1,"quantity":1000000000}]}'),
        (422, '{"items":[{"productId":1,"quantity":1.5}]}'),
        (422, '{"items":[{"productId":1,"quantity":true}]}'),
        (422, '{"items":[{"productId":99,"quantity":1}]}'),
        (422, '{"items":[{"productId":123456789012345678901234567890,"quantity":1}]}'),
        (400, '{"items":[{"productId":1,"quantity":1,"price":1e400}]}'),
        (422, '{"items":[{"productId":1,"quantity":1,"price":99.99}]}'),
        (422, '{"items":[{"productId":1,"quantity":1,"price":"Infinity"}]}'),
        (422, f'{{"items":[{ITEM}],"shippingAddress":"a\\u0000b"}}'),
        (422, f'{{"items":[{ITEM}],"shipingAddress":"misspelt"}}'),
        (413, "x" * 300_000),
    ],
)
def test_a_body_the_shop_cannot_take_is_a_problem_and_writes_nothing(api: Api, status: int, body: str) -> None:
    answer = api.call(
        "POST", "/api/v1/orders", data=body.encode("latin1"), headers={"Content-Type": "application/json"}
    )
    problem_of(answer, status)
    assert api.written() == (0, 0, 0, 0, 0)


def test_a_body_that_does_not_tell_its_length_is_cut_off_at_the_limit(api: Api) -> None:
    chunks = (b" " * 10_000 for _ in range(100))
    problem_of(api.call("POST", "/api/v1/orders", data=chunks, headers={"Content-Type": "application/json"}), 413)


@pytest.mark.parametrize("key", ["", "a b", "x" * 101, "\xe9"])
def test_an_idempotency_key_that_is_not_1_to_100_visible_characters_is_refused(api: Api, key: str) -> None:
    problem_of(api.post(key=key), 400)
    assert api.written() == (0, 0, 0, 0, 0)


def test_without_a_token_nothing_is_answered_but_401(api: Api) -> None:
    problem_of(requests.post(f"{api.url}/api/v1/orders", json=ORDER, timeout=20), 401)


@pytest.mark.parametrize("body", ["{", "null", '{"items":[]}', ""])
def test_a_body_that_is_wrong_is_not_looked_at_without_a_token(api: Api, body: str) -> None:
    for path in ("orders", "orders/x/cancel", "payments/x/fail"):
        answer = requests.post(
            f"{api.url}/api/v1/{path}", data=body, headers={"Content-Type": "application/json"}, timeout=20
        )
        problem_of(answer, 401)


@pytest.mark.row("S0.7")
def test_order_event_and_pending_row_are_written_together_or_not_at_all(api: Api) -> None:
    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE pending ADD CONSTRAINT broken CHECK (false)"))
    problem_of(api.post(key="k-1"), 500)
    assert api.written() == (0, 0, 0, 0, 0)
    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE pending DROP CONSTRAINT broken"))
    assert api.post(key="k-1").status_code == 201


@pytest.mark.row("S3.8")
def test_an_order_whose_event_cannot_be_written_as_json_is_an_error_and_leaves_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(
            "core.commands.context.to_json",
            lambda event: to_json(msgspec.structs.replace(event, shipping_address=object())),
        )
        problem_of(api.post(key="k-1"), 500)
    assert api.written() == (0, 0, 0, 0, 0)
    assert api.post(key="k-1").status_code == 201


@pytest.mark.row("S1.4")
def test_an_order_whose_confirmation_fails_tells_nobody_that_it_is_confirmed_or_paid(api: Api) -> None:
    order_id = api.post().json()["id"]
    command = ConfirmOrder(order_id=order_id, payment_id=f"pay-{order_id}", payment_method="CARD")
    asked = envelope_of(Raised(order_id, 1, command), new_uuid7(), utc_now(), None)
    writing = GroupWriting(api.tables, "order-service", obey(api.shop), sink=OutboxSink(api.tables))

    def confirm() -> None:
        with api.engine.begin() as connection:
            writing.write(connection, [asked])

    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders ADD CONSTRAINT broken CHECK (status = 'PENDING')"))
    with pytest.raises(IntegrityError, match="broken"):
        confirm()
    problem_of(api.call("POST", f"/api/v1/orders/{order_id}/confirm"), 500)
    assert events_of(api, order_id) == [("OrderCreated", 1)]
    assert api.written() == (1, 1, 1, 1, 0)
    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE orders DROP CONSTRAINT broken"))
    confirm()
    assert events_of(api, order_id) == [("OrderCreated", 1), ("OrderConfirmed", 2), ("OrderPaid", 3)]
    assert api.call("GET", f"/api/v1/orders/{order_id}").json()["status"] == "PAID"


def test_paths_and_methods_that_do_not_exist_are_problems_too(api: Api) -> None:
    problem_of(api.call("GET", "/nowhere"), 404)
    problem_of(api.call("DELETE", "/api/v1/orders"), 405)


def test_the_api_is_ready_only_while_the_database_answers(api: Api) -> None:
    assert requests.get(f"{api.url}/health/ready", timeout=20).status_code == 200
    away = create_database_engine("postgresql://u@127.0.0.1:1/none")
    with served(replace(api, engine=away).app()) as url:
        problem_of(requests.get(f"{url}/health/ready", timeout=20), 503)
        assert requests.get(f"{url}/health/live", timeout=20).status_code == 200


def test_while_the_database_takes_no_writes_orders_are_read_and_a_new_one_may_be_tried_again(api: Api) -> None:
    order_id = api.post().json()["id"]
    standby = create_database_engine(api.engine.url.render_as_string(hide_password=False))
    listen(standby, "connect", lambda connection, _: setattr(connection, "read_only", True))
    with served(replace(api, engine=standby).app()) as api.url:
        refused = api.post(key="k-1")
        problem_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        assert api.call("GET", f"/api/v1/orders/{order_id}").status_code == 200
    with served(api.app()) as api.url:
        assert api.post(key="k-1").status_code == 201


def events_of(api: Api, order_id: str) -> list[tuple[str, int]]:
    with api.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT event_type, sequence FROM event WHERE aggregate_id = :id ORDER BY id"), {"id": order_id}
        )
        return [(row.event_type, row.sequence) for row in rows]


def test_an_order_is_confirmed_once_and_then_cancelled_once(api: Api) -> None:
    order_id = api.post().json()["id"]
    path = f"/api/v1/orders/{order_id}"
    assert api.call("POST", f"{path}/confirm").json()["status"] == "CONFIRMED"
    assert "CONFIRMED" in problem_of(api.call("POST", f"{path}/confirm"), 409)["detail"]
    for _ in range(2):
        assert api.call("POST", f"{path}/cancel", json={"reason": "changed my mind"}).json()["status"] == "CANCELLED"
    assert events_of(api, order_id) == [("OrderCreated", 1), ("OrderConfirmed", 2), ("OrderCancelled", 3)]


def test_another_customer_s_order_can_be_neither_confirmed_nor_cancelled(api: Api) -> None:
    order_id = api.post().json()["id"]
    problem_of(api.call("POST", f"/api/v1/orders/{order_id}/confirm", customer="c-2"), 404)
    problem_of(api.call("POST", f"/api/v1/orders/{order_id}/cancel", customer="c-2", json={"reason": "mine"}), 404)
    assert events_of(api, order_id) == [("OrderCreated", 1)]


@pytest.mark.parametrize("status", ["FAILED", "RELEASED"])
def test_an_order_whose_stock_was_refused_cannot_be_confirmed(api: Api, status: str) -> None:
    order_id = api.post().json()["id"]
    with api.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO stock_reservation VALUES (:id, :status, 1, 'no')"), {"id": order_id, "status": status}
        )
    assert status in problem_of(api.call("POST", f"/api/v1/orders/{order_id}/confirm"), 409)["detail"]
    assert events_of(api, order_id) == [("OrderCreated", 1)]


def _say(api: Api, order_id: str, seller: str, status: str, **more: Any) -> requests.Response:
    body = {"sellerId": seller, "status": status}
    return api.call("PATCH", f"/api/v1/orders/{order_id}/status", more.pop("customer", seller), json=body, **more)


@pytest.mark.row("S0.9")
def test_an_order_is_shipped_and_delivered_when_all_its_sellers_say_so_and_each_word_is_an_event(api: Api) -> None:
    order_id = api.post({"items": [{"productId": 1, "quantity": 1}, {"productId": 2, "quantity": 1}]}).json()["id"]
    assert "PENDING" in problem_of(_say(api, order_id, "seller-1", "SHIPPED"), 409)["detail"]
    with api.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET status = 'PAID'"))
    said = [("seller-1", "SHIPPED"), ("seller-1", "DELIVERED"), ("seller-2", "SHIPPED"), ("seller-2", "DELIVERED")]
    answers = [_say(api, order_id, *words).json() for words in said]
    assert [answer["orderStatus"] for answer in answers] == ["PAID", "PAID", "SHIPPED", "DELIVERED"]
    problem_of(_say(api, order_id, "seller-2", "SHIPPED"), 409)
    problem_of(api.call("POST", f"/api/v1/orders/{order_id}/cancel", json={"reason": "too late"}), 409)
    with api.engine.connect() as connection:
        payloads = connection.execute(
            text("SELECT payload FROM event WHERE event_type = 'OrderStatusChanged' ORDER BY sequence")
        ).scalars()
        told = [json.loads(payload) for payload in payloads]
    assert [(one["sellerId"], one["status"]) for one in told] == said
    assert {one["orderId"] for one in told} == {order_id}
    assert all(one["customerId"] == "c-1" and one["orderNumber"] for one in told)


def test_only_the_seller_or_an_admin_may_say_that_its_items_were_shipped(api: Api) -> None:
    order_id = api.post().json()["id"]
    with api.engine.begin() as connection:
        connection.execute(text("UPDATE orders SET status = 'PAID'"))
    problem_of(_say(api, order_id, "seller-1", "SHIPPED", customer="c-1"), 403)
    problem_of(_say(api, order_id, "seller-2", "SHIPPED"), 404)
    problem_of(_say(api, order_id, "seller-1", "PAID"), 422)
    problem_of(_say(api, "019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11", "seller-1", "SHIPPED"), 404)
    assert _say(api, order_id, "seller-1", "SHIPPED", customer="boss", scopes=("admin",)).status_code == 200


def test_of_confirmations_that_meet_at_the_order_s_row_one_succeeds(api: Api) -> None:
    order_id = api.post().json()["id"]
    with ThreadPoolExecutor(5) as pool, api.engine.connect() as gate:
        gate.execute(text("SELECT FROM orders FOR UPDATE"))
        answers = [pool.submit(api.call, "POST", f"/api/v1/orders/{order_id}/confirm") for _ in range(5)]
        until(lambda: waiting_for_a_lock(api) == 5)
        gate.rollback()
        codes = sorted(answer.result().status_code for answer in answers)
    assert codes == [200] + [409] * 4
    assert events_of(api, order_id) == [("OrderCreated", 1), ("OrderConfirmed", 2)]


def waiting_for_a_lock(api: Api) -> int:
    with api.engine.connect() as connection:
        return int(
            connection.execute(
                text("""SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'""")
            ).scalar_one()
        )


@pytest.mark.row("S2.2")
def test_a_customer_pages_through_their_own_orders_newest_first(api: Api) -> None:
    made = [api.post().json()["id"] for _ in range(5)]
    api.post(customer="c-2")
    seen: list[str] = []
    path = "/api/v1/orders?limit=2"
    for size in (2, 2, 1):
        page = api.call("GET", path).json()
        assert len(page["orders"]) == size
        seen += [order["id"] for order in page["orders"]]
        path = f"/api/v1/orders?limit=2&before={page['nextBefore']}"
    assert page["nextBefore"] is None
    assert seen == made[::-1]


def test_the_openapi_document_shows_every_path_once_with_its_problems(api: Api) -> None:
    paths = requests.get(f"{api.url}/openapi.json", timeout=20).json()["paths"]
    assert {path for path in paths if path.startswith("/api/")} == {
        "/api/v1/orders",
        "/api/v1/orders/{order_id}",
        "/api/v1/orders/{order_id}/confirm",
        "/api/v1/orders/{order_id}/cancel",
        "/api/v1/orders/{order_id}/status",
        "/api/v1/payments/{transaction_key}/complete",
        "/api/v1/payments/{transaction_key}/fail",
        "/api/v1/products/{product_id}",
        "/api/v1/products/{product_id}/likes",
        "/api/v1/products/{product_id}/metrics",
        "/api/v1/tickets",
        "/api/v1/tickets/{ticket_id}",
        "/api/v1/notifications",
        "/api/v1/read/orders",
        "/api/v1/read/orders/{order_id}",
    }
    assert "409" in paths["/api/v1/orders/{order_id}/cancel"]["post"]["responses"]
