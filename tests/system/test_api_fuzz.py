"""Requests made up from the OpenAPI document: whatever is sent, nothing answers 500 and nothing is half written."""

import re
import time
from collections.abc import Iterator

import jwt
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema

from testbed import wiring
from tests.system.api_server import ORDER, problem_of
from tests.system.live_shop import LiveShop, live_shop, settings_for

EXAMPLES = 5
"""Of each operation and kind. Drawn the same way in every run: a failure found here is found again."""

HALF_WRITTEN = {
    "an order without items": """
        SELECT id FROM orders o WHERE NOT EXISTS (SELECT FROM order_items WHERE order_id = o.id)""",
    "items without an order": "SELECT order_id FROM order_items WHERE order_id NOT IN (SELECT id FROM orders)",
    "an order without its events": """
        SELECT id FROM orders o WHERE version <> (
            SELECT count(*) FROM event WHERE aggregate_type = 'Order' AND aggregate_id = CAST(o.id AS text))""",
    "a ticket without its event": """
        SELECT id FROM ticket t WHERE NOT EXISTS (SELECT FROM event WHERE aggregate_id = CAST(t.id AS text))""",
    "an event that nobody will send": "SELECT id FROM event WHERE id NOT IN (SELECT id FROM pending)",
    "an answer for what is not there": """
        SELECT resource_id FROM request r WHERE NOT EXISTS (SELECT FROM event WHERE aggregate_id = r.resource_id)""",
}


@pytest.fixture
def shop(request: pytest.FixtureRequest, database: str) -> Iterator[LiveShop]:
    with live_shop(settings_for("memory", database, request)) as running:
        yield running


@pytest.fixture
def schema(shop: LiveShop) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{shop.url}/openapi.json")


def fuzz(shop: LiveShop, schema: BaseSchema, examples: int, *, derandomize: bool) -> int:
    """As many requests of each operation that fit the document, and as many that do not; how many were sent."""
    sent = 0
    order_id = shop.call("POST", "/api/v1/orders", json=ORDER).json()["id"]
    there = {"order_id": order_id, "product_id": "1"}
    tokens = [wiring.development_token(shop.settings, "c-1", is_admin) for is_admin in (False, True)]

    def send(case: Case) -> None:
        nonlocal sent
        sent += 1
        # Every other request is about something that is there, two of three with a token that may do all.
        for name in there.keys() & case.path_parameters.keys() if sent % 2 else ():
            case.path_parameters[name] = there[name]
        headers = {"Authorization": f"Bearer {tokens[sent % 3 > 0]}"}
        answer = case.call(base_url=shop.url, headers=headers, timeout=30)
        said = f"{case.as_curl_command()}\n{answer.status_code} {answer.text[:500]}"
        assert answer.status_code < 500, said
        is_problem = answer.headers.get("content-type") == ["application/problem+json"]
        assert is_problem == (answer.status_code >= 400), said

    rules = settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    for result in schema.get_all_operations():
        operation = result.ok()
        # Any text is a path parameter that fits: only bodies and queries can be wrong.
        can_be_wrong = bool(operation.body or operation.query)
        for mode in GenerationMode if can_be_wrong else [GenerationMode.POSITIVE]:
            rules(given(case=operation.as_strategy(generation_mode=mode))(send))()
    return sent


def test_nothing_that_the_openapi_document_allows_is_answered_500_or_half_written(
    shop: LiveShop, schema: BaseSchema
) -> None:
    sent = fuzz(shop, schema, EXAMPLES, derandomize=True)
    assert sent > 100
    assert shop.count("SELECT count(*) FROM orders") > 1, "some requests must have been taken"
    assert {what: shop.rows(sql) for what, sql in HALF_WRITTEN.items()} == {what: [] for what in HALF_WRITTEN}


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_an_instant_that_no_clock_shows_is_refused(shop: LiveShop, since: str) -> None:
    for answer in (
        shop.call("GET", "/admin/audit", admin=True, params={"since": since}),
        shop.call("POST", "/admin/replay", admin=True, json={"group": "product-metrics", "since": since}),
    ):
        assert "since" in problem_of(answer, 422)["errors"][0]["pointer"]
    for instant in ("1970-01-01T00:00:00+00:00", "9998-12-30T23:59:59-14:00"):
        assert shop.call("GET", "/admin/audit", admin=True, params={"since": instant}).status_code == 200


def test_text_that_the_database_cannot_hold_is_refused_wherever_it_stands(shop: LiveShop) -> None:
    for verb, path, body, status in (
        ("POST", "/admin/outbox/requeue", {"keys": ["a\0b"]}, 422),
        ("GET", "/admin/audit?about=a%00b", None, 422),
        ("POST", "/api/v1/payments/a%00b/complete", None, 404),
        ("POST", "/api/v1/payments/a%00b/fail", {"reason": "declined"}, 404),
        ("GET", "/api/v1/orders/a%00b", None, 404),
        ("GET", "/api/v1/products/1%00", None, 404),
    ):
        answer = shop.call(verb, path, admin=True, json=body)
        assert (answer.status_code, verb, path) == (status, verb, path), answer.text


@pytest.mark.long
def test_a_thousand_requests_of_each_operation_drawn_anew(shop: LiveShop, schema: BaseSchema) -> None:
    fuzz(shop, schema, 1_000, derandomize=False)
    assert {what: shop.rows(sql) for what, sql in HALF_WRITTEN.items()} == {what: [] for what in HALF_WRITTEN}


def test_no_route_but_health_answers_a_token_that_is_expired_foreign_unsigned_or_missing(shop: LiveShop) -> None:
    claims = {"sub": "c-1", "iss": "testbed", "aud": "shop", "scope": "admin", "exp": time.time() + 3_600}
    secret = wiring.token_settings(shop.settings).secret
    bad = {
        "expired": jwt.encode({**claims, "exp": time.time() - 1}, secret, "HS256"),
        "foreign": jwt.encode(claims, "another secret of at least 32 characters", "HS256"),
        "unsigned": jwt.encode(claims, "", "none"),
        "of another audience": jwt.encode({**claims, "aud": "bank"}, secret, "HS256"),
        "missing": "",
    }
    paths = requests.get(f"{shop.url}/openapi.json", timeout=20).json()["paths"]
    routes = [(verb, path) for path, verbs in paths.items() for verb in verbs if not path.startswith("/health")]
    assert len(routes) > 12
    for verb, path in routes:
        url = shop.url + re.sub(r"\{\w+\}", "1", path)
        for kind, token in bad.items():
            answer = requests.request(verb, url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
            assert (answer.status_code, kind, verb, path) == (401, kind, verb, path)
        if path.startswith("/admin"):
            scopeless = {"Authorization": f"Bearer {wiring.development_token(shop.settings, 'c-1')}"}
            assert requests.request(verb, url, headers=scopeless, json={"group": "x"}, timeout=20).status_code == 403
