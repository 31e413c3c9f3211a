"""The back office as a process of its own beside the commerce side (this process): only messages join the two."""

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.system.live_shop import LiveShop, live_shop, settings_for
from tests.system.role_processes import Roles
from tests.waiting import until

COMMERCE = ("inventory-service", "payment-service", "order-saga", "order-service")
BACK_OFFICE = "product-metrics"
TWO_OF_ONE = {"items": [{"productId": 1, "quantity": 2}]}
OF_THIS_VISIT = ("id", "orderNumber", "customerId", "createdAt")


class Customer:
    def __init__(self, commerce: LiveShop, name: str) -> None:
        self.commerce, self.name = commerce, name

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        answer: requests.Response = self.commerce.call(method, f"/api/v1{path}", customer=self.name, **more)
        return answer

    def visit(self) -> list[tuple[int, object]]:
        """Looks at a product, likes it and buys two: every answer, without what is only this visit's."""
        answers = [
            self.call("GET", "/products/1"),
            self.call("POST", "/products/1/likes"),
            self.call("POST", "/orders", json=TWO_OF_ONE),
        ]
        order = f"/orders/{answers[-1].json()['id']}"
        until(lambda: self.call("GET", order).json()["status"] == "PAID", 60)
        answers.append(self.call("GET", order))
        return [(answer.status_code, plain(answer)) for answer in answers]

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/products/1/metrics").json()
        return found


def plain(answer: requests.Response) -> object:
    body = answer.json() if answer.content else {}
    return {name: value for name, value in body.items() if name not in OF_THIS_VISIT}


def counted(times: int) -> dict[str, int]:
    return {"productId": 1, "likes": times, "views": times, "sales": 2 * times}


@pytest.mark.row("S1.11")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_the_shop_answers_the_same_while_its_back_office_is_away_which_counts_all_of_it_when_it_is_back(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    settings = settings_for(broker, database, request, groups=",".join((*COMMERCE, BACK_OFFICE)))
    with live_shop(settings) as commerce:
        office = Roles(settings, tmp_path)
        try:
            office.launch("consume", BACK_OFFICE)
            commerce.start("relay", *COMMERCE)
            with_office = Customer(commerce, "c-1").visit()
            assert [status for status, _ in with_office] == [200, 204, 201, 200]
            until(lambda: Customer(commerce, "c-1").metrics() == counted(1), 60)

            office.stop()
            second = Customer(commerce, "c-2")
            assert second.visit() == with_office
            assert second.metrics() == counted(1), "who counts is away"
            office.launch("consume", BACK_OFFICE)
            until(lambda: second.metrics() == counted(2), 60)
        finally:
            office.stop()
