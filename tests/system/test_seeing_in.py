"""Metrics, logs and health of every role, asked the way Prometheus and an orchestrator ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from core.queries.ledger import read_ledger
from testbed import wiring
from testbed.metrics import Metrics
from tests.system.api_server import ORDER
from tests.system.live_shop import settings_for
from tests.system.role_processes import Roles, prepared_roles
from tests.waiting import until


@pytest.fixture(params=["kafka", "rabbitmq"])
def roles(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Roles]:
    with prepared_roles(settings_for(request.param, database, request), tmp_path) as running:
        yield running


@pytest.mark.row("S2.17")
def test_every_role_shows_figures_that_move_and_logs_that_name_the_event(roles: Roles) -> None:
    roles.start("serve")
    url = f"http://127.0.0.1:{roles.ports['serve']}"
    assert requests.get(f"{url}/health/live", timeout=20).json() == {"status": "live"}
    assert requests.get(f"{url}/health/ready", timeout=20).json() == {"status": "ready"}
    token = wiring.development_token(roles.settings, "c-1")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "seen-in-the-log"}
    order_id = requests.post(f"{url}/api/v1/orders", json=ORDER, headers=headers, timeout=20).json()["id"]
    for path in (f"/api/v1/orders/{order_id}", "/api/v1/orders/none", "/nowhere/1", "/nowhere/2"):
        requests.get(url + path, headers=headers, timeout=20)
    for _ in range(20):
        requests.post(f"{url}/api/v1/products/1/likes", headers={**headers, "Authorization": "none"}, timeout=20)
        requests.get(f"{url}/api/v1/products/1", headers=headers, timeout=20)

    one = "/api/v1/orders/{order_id}"
    counted = "shop_http_requests_total"
    assert roles.value("serve", counted, method="POST", route="/api/v1/orders", status="201") == 1
    assert roles.value("serve", counted, method="GET", route=one, status="200") == 1
    assert roles.value("serve", counted, method="GET", route=one, status="404") == 1
    assert roles.value("serve", counted, method="GET", route="unmatched", status="404") == 2
    assert roles.value("serve", counted, method="POST", route="/api/v1/products/{product_id}/likes", status="401") == 20
    assert roles.value("serve", "shop_http_request_duration_seconds_count", method="GET", route=one) == 2
    assert roles.value("serve", "shop_events_committed_total") == 21
    assert roles.value("serve", "shop_outbox_depth_messages") == 21
    assert roles.value("serve", "shop_outbox_age_seconds") > 0
    database = wiring.open_database(roles.settings)
    assert roles.value("serve", "shop_sagas_hung") == 0
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO saga_state (order_id, step, status, version, deadline_at, order_number, customer_id, "
            "total_amount, card_type) "
            "VALUES (gen_random_uuid(), 'ORDER_CREATED', 'RUNNING', 1, now(), '1', 'c', 1, 'x')"
        )
    assert roles.value("serve", "shop_sagas", step="ORDER_CREATED", status="RUNNING") == 1
    assert roles.value("serve", "shop_sagas_hung") == 1

    roles.start("relay")
    until(lambda: roles.value("relay", "shop_outbox_depth_messages") == 0, 60)
    assert roles.value("relay", "shop_publish_outcomes_total", outcome="confirmed") == 21
    assert roles.value("relay", "shop_outbox_cleared_total") == 21

    watched = Metrics()
    watched.ask_lag(wiring.connect_broker(roles.settings), ["product-metrics", "payment-service"], 19)
    page = watched.page().decode()
    assert 'shop_group_lag_messages{group="product-metrics",topic="catalog-events"} 20.0' in page
    assert 'shop_group_lag_alarm{group="product-metrics"} 1.0' in page
    assert 'shop_group_lag_alarm{group="payment-service"} 0.0' in page

    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE product_metrics ADD CONSTRAINT twenty_is_too_many CHECK (views < 20)")
    views = [s.envelope for s in read_ledger(database.engine, database.messaging) if s.envelope.type == "ProductViewed"]
    publisher = wiring.connect_broker(roles.settings).publisher()
    assert publisher.publish(views[:1], 20)[0].is_confirmed
    publisher.close()
    database.engine.dispose()
    roles.start("consume", "product-metrics", "dead-letter-service")
    group = {"group": "product-metrics"}
    until(lambda: roles.value("consume", "shop_open_letters", **group) == 1, 60)
    until(lambda: roles.value("consume", "shop_duplicates_dropped_total", **group) == 1, 60)
    until(lambda: roles.value("consume", "shop_group_lag_messages", topic="catalog-events", **group) == 0, 60)
    assert roles.value("consume", "shop_lag_readable") == 1
    assert roles.value("consume", "shop_group_lag_alarm", **group) == 0
    assert roles.value("consume", "shop_handled_total", outcome="applied", **group) == 19
    assert roles.value("consume", "shop_handled_total", outcome="dead_lettered", **group) == 1
    assert roles.value("consume", "shop_dead_letters_total", outcome="confirmed", **group) == 1
    assert roles.value("consume", "shop_retries_total", **group) == 4

    (given_up,) = [line for line in roles.lines("consume") if str(line["message"]).startswith("message given up")]
    assert (given_up["event_id"], given_up["correlation_id"]) == (views[-1].id, views[-1].correlation_id)
    assert (given_up["level"], given_up["group"]) == ("ERROR", "product-metrics")
