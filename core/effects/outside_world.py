"""What the shop asks of the world outside (gateway, mail, push, SMS, data platform), and how it is asked over HTTP.

A call has an idempotency key and three ends: it was done, it was certainly not done, or nobody knows. After the latter
two it is made again with the same key: `core.inbox.outside` does that. Who stands on the other side: `servers/`.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol, get_args
from urllib.parse import quote

import httpx
import msgspec

from core.effects.gateway import ApprovingGateway, Charge, ChargeStatus, Gateway

Service = Literal["mails", "pushes", "sms", "records"]


class OutsideError(Exception):
    """Base: call it again with the same key."""


class OutsideFailed(OutsideError):
    """It answered, and did nothing: certainly not done."""

    def __init__(self, path: str, answer: str) -> None:
        super().__init__(f"{path} was not done, call it again: {answer}")


class OutsideSilent(OutsideError):
    """No answer, or none that can be read: it may have been done. Only its key keeps a repeat from doing it twice."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} did not answer, it may have been done: {reason}")


class Delivery(NamedTuple):
    idempotency_key: str
    content: Mapping[str, Any]


class OutsideWorld(Gateway, Protocol):
    """`charge` and `cancel` raise OutsideFailed or OutsideSilent. For any number of threads."""

    def deliver(self, service: Service, deliveries: Sequence[Delivery]) -> Sequence[OutsideError | None]:
        """Mails, pushes, SMS or records, in one request; for each, in order, None if it was done. Never raises."""

    def close(self) -> None: ...


class HttpOutsideWorld:
    """Over HTTP, connections kept. Connects on the first call."""

    def __init__(self, url: str, timeout_s: float = 2.0, connections: int = 32) -> None:
        """`timeout_s`: for connecting, and again for the answer."""
        self._client = httpx.Client(
            base_url=url,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"Content-Type": "application/json"},
        )

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        body = {"idempotencyKey": idempotency_key, "orderId": order_id, "amount": amount, "cardType": card_type}
        answer = self._post("/payments", body)
        for status in _CHARGE_STATUSES:
            if isinstance(answer, dict) and answer.get("status") == status:
                return Charge(status, answer.get("reason"))
        raise OutsideSilent("/payments", f"its answer is {answer}")

    def cancel(self, idempotency_key: str) -> None:
        self._post(f"/payments/{quote(idempotency_key, safe='')}/cancel", {})

    def deliver(self, service: Service, deliveries: Sequence[Delivery]) -> Sequence[OutsideError | None]:
        path = f"/{service}/batch"
        body = [{"idempotencyKey": delivery.idempotency_key, **delivery.content} for delivery in deliveries]
        try:
            answers = self._post(path, body)
        except OutsideError as error:
            return [error] * len(deliveries)
        if not isinstance(answers, list) or len(answers) != len(deliveries):
            return [OutsideSilent(path, "its answer does not fit the request")] * len(deliveries)
        return [_outcome(path, answer) for answer in answers]

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, body: object) -> Any:
        try:
            response = self._client.post(path, content=_ENCODER.encode(body))
            if response.is_success:
                return response.json()
            # Any other 5xx may come from what stands between, which cannot tell what was done behind it.
            error = OutsideFailed if response.is_client_error or response.status_code == 503 else OutsideSilent
            raise error(path, f"{response.status_code} {response.text[:200]}")
        except httpx.ConnectError as cause:
            raise OutsideFailed(path, f"no connection: {cause}") from cause
        except (httpx.HTTPError, ValueError) as cause:
            raise OutsideSilent(path, f"{type(cause).__name__}: {cause}") from cause


class SimulatedOutsideWorld(ApprovingGateway):
    """Inside this process, for development: every call is done at once and nothing is recorded."""

    def deliver(self, service: Service, deliveries: Sequence[Delivery]) -> Sequence[OutsideError | None]:
        return [None] * len(deliveries)

    def close(self) -> None:
        return None


def _outcome(path: str, answer: object) -> OutsideError | None:
    """Of one delivery of a batch; null: the service keeps silent about it."""
    if isinstance(answer, dict) and answer.get("status") == "accepted":
        return None
    if isinstance(answer, dict) and answer.get("status") == "unavailable":
        return OutsideFailed(path, str(answer.get("reason")))
    return OutsideSilent(path, f"it says {answer} of this one")


_CHARGE_STATUSES: tuple[ChargeStatus, ...] = get_args(ChargeStatus)
_ENCODER = msgspec.json.Encoder(decimal_format="number")
