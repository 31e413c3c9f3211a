"""Tickets, notifications and the read model over HTTP: own things only, and a phone number nowhere."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from sqlalchemy import text

from core.api.tokens import ADMIN, mint
from core.domain.tickets import hash_of_phone, mask_of_phone, plain_phone
from core.effects.notification_service import notify
from core.effects.read_model import project_orders
from tests.mixed_orders import Traffic
from tests.system.api_server import TOKENS, Api, api_on, problem_of

PHONE = "+82 10-1234-5678"
APPLICATION = {"show": "Music Bank", "phone": PHONE}


@pytest.fixture
def api(database: str) -> Iterator[Api]:
    with api_on(database) as running:
        yield running


def apply(api: Api, body: object = APPLICATION, key: str | None = None, customer: str = "c-1") -> requests.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return api.call("POST", "/api/v1/tickets", customer, headers, json=body)


def rows(api: Api, sql: str) -> list[tuple[Any, ...]]:
    with api.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


@pytest.mark.row("S4.1", "S4.4", on="any")
def test_an_application_is_a_ticket_and_one_event_or_neither(api: Api) -> None:
    made = apply(api)
    assert made.status_code == 201
    body = made.json()
    assert (body["show"], body["status"], body["customerId"]) == ("Music Bank", "APPLIED", "c-1")
    assert body["phoneMasked"] == "*********5678"
    assert made.headers["Location"] == f"/api/v1/tickets/{body['id']}"
    assert rows(api, "SELECT event_type, topic, aggregate_type, aggregate_id, sequence FROM event") == [
        ("TicketApplied", "ticket-applied", "Ticket", body["id"], 1)
    ]
    with api.engine.begin() as connection:
        connection.execute(text("DROP TABLE pending CASCADE"))
    assert apply(api).status_code == 500
    assert api.count("ticket") == api.count("event") == 1


@pytest.mark.row("S4.1", on="any")
def test_the_same_key_gets_the_same_ticket_also_when_asked_at_once_and_another_request_is_refused(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: apply(api, key="k-1"), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert api.count("ticket") == api.count("event") == api.count("pending") == 1
    spelt_otherwise = apply(api, {**APPLICATION, "phone": "+821012345678"}, key="k-1")
    assert spelt_otherwise.text == answers[0].text
    problem_of(apply(api, {**APPLICATION, "phone": "+821012345679"}, key="k-1"), 422)
    assert apply(api, key="k-1", customer="c-2").json()["id"] != answers[0].json()["id"]


@pytest.mark.row("S4.1", on="any")
def test_a_ticket_is_shown_to_its_owner_alone(api: Api) -> None:
    ticket = apply(api).json()
    assert api.call("GET", f"/api/tickets/{ticket['id']}").json() == ticket
    problem_of(api.call("GET", f"/api/tickets/{ticket['id']}", customer="c-2"), 404)
    problem_of(api.call("GET", "/api/tickets/nonsense"), 404)
    assert requests.get(f"{api.url}/api/tickets/{ticket['id']}", timeout=20).status_code == 401


WRONG: list[dict[str, Any]] = [
    {"show": "x"},
    {**APPLICATION, "phone": "123456"},
    {**APPLICATION, "phone": "0123456789012345"},
    {**APPLICATION, "phone": "+82x10123456"},
    {**APPLICATION, "phone": "\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668"},
    {**APPLICATION, "phone": 821012345678},
    {**APPLICATION, "show": ""},
    {**APPLICATION, "show": "x" * 201},
    {**APPLICATION, "show": "a\x00b"},
    {**APPLICATION, "more": 1},
]


def test_a_wrong_application_is_refused_without_repeating_it(api: Api) -> None:
    for body in WRONG:
        answer = apply(api, body)
        problem_of(answer, 422)
        assert str(body.get("phone", "none")) not in answer.text
    assert api.count("ticket") == api.count("event") == 0


def test_one_number_has_one_hash_however_it_is_written_and_none_without_the_key() -> None:
    written = ["+82 10-1234-5678", "+82(10)1234.5678", "+821012345678"]
    assert len({hash_of_phone(plain_phone(number), b"key") for number in written}) == 1
    assert hash_of_phone("+821012345678", b"key") != hash_of_phone("+821012345678", b"other")
    assert hash_of_phone("+821012345678", b"key") != hash_of_phone("+821012345679", b"key")
    assert mask_of_phone("1234567") == "***4567"


def test_the_phone_number_is_in_no_row_and_in_no_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    apply(api, key="k-1")
    apply(api, {**APPLICATION, "phone": "+82x10-1234-5678"})
    with api.engine.begin() as connection:
        connection.execute(text("ALTER TABLE ticket ADD CHECK (show <> 'Broken')"))
    assert apply(api, {**APPLICATION, "show": "Broken"}).status_code == 500
    everything = caplog.text
    for (table,) in rows(api, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        everything += str(rows(api, f"SELECT t::text FROM {table} t"))
    assert "*********5678" in everything
    digits = "".join(character for character in everything if character not in " -+()./")
    assert "1012345678" not in digits


def test_notifications_are_the_callers_own_newest_first_page_by_page(api: Api) -> None:
    traffic = Traffic(seed=1)
    created = [traffic.order(number)[0] for number in (2, 22, 42, 3)]
    for one in created:
        with api.engine.begin() as connection:
            notify(api.shop)(connection, [one])
    assert api.call("GET", "/api/notifications", customer="c-9").json() == {"notifications": [], "nextBefore": None}
    first = api.call("GET", "/api/notifications?limit=2", customer="c-2").json()
    second = api.call("GET", f"/api/notifications?limit=2&before={first['nextBefore']}", customer="c-2").json()
    told = [*first["notifications"], *second["notifications"]]
    assert (len(first["notifications"]), second["nextBefore"]) == (2, None)
    assert [n["message"].split()[1] for n in told] == ["1000042", "1000022", "1000002"]
    assert {(n["type"], n["channel"]) for n in told} == {("ORDER_CREATED", "PUSH")}
    for wrong in ("limit=0", "limit=101", "before=0", "before=x", f"before={2**63}"):
        problem_of(api.call("GET", f"/api/notifications?{wrong}"), 422)


def as_admin(api: Api, path: str) -> requests.Response:
    token = mint(TOKENS, "boss", scopes=[ADMIN])
    return requests.get(api.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=20)


@pytest.mark.row("S3.36", on="any")
def test_the_read_model_answers_by_customer_and_by_status_newest_first(api: Api) -> None:
    traffic = Traffic(seed=1)
    lives = [traffic.order(number) for number in (0, 2, 20, 22, 40, 3)]
    views = [e for life in lives for e in life if e.type.startswith("Order") or e.type == "InventoryConfirmed"]
    with api.engine.begin() as connection:
        project_orders(api.shop)(connection, views)
    ids = [life[0].key for life in lives]
    first = api.call("GET", "/api/read/orders?limit=2", customer="c-0").json()
    second = api.call("GET", f"/api/read/orders?limit=2&before={first['nextBefore']}", customer="c-0").json()
    assert [order["id"] for order in first["orders"] + second["orders"]] == [ids[4], ids[2], ids[0]]
    assert second["nextBefore"] is None
    own = api.call("GET", "/api/read/orders?customerId=c-2&status=CANCELLED", customer="c-2").json()["orders"]
    assert [(order["id"], order["cancellationReason"]) for order in own] == [
        (ids[3], "it was so decided"),
        (ids[1], "it was so decided"),
    ]
    assert api.call("GET", "/api/read/orders?status=PAID", customer="c-2").json()["orders"] == []
    one = api.call("GET", f"/api/read/orders/{ids[0]}", customer="c-0").json()
    assert (one["status"], one["isStockConfirmed"], one["customerId"]) == ("PAID", True, "c-0")
    problem_of(api.call("GET", f"/api/read/orders/{ids[0]}", customer="c-2"), 404)
    problem_of(api.call("GET", "/api/read/orders?customerId=c-0", customer="c-2"), 403)
    problem_of(api.call("GET", "/api/read/orders?status=LOST", customer="c-2"), 422)
    cancelled = as_admin(api, "/api/read/orders?status=CANCELLED").json()["orders"]
    assert [order["id"] for order in cancelled] == [ids[5], ids[3], ids[1]]
    assert as_admin(api, f"/api/read/orders/{ids[0]}").json() == one
