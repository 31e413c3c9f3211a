"""The outside world without its network: what it answers to the shop's calls, and its record."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import Any

from core.effects.gateway import Charge
from core.effects.outside_world import Delivery, OutsideError, OutsideFailed, OutsideSilent, Service
from servers.outside_world.behaviour import Behaviours
from servers.outside_world.record import Call, Record
from servers.outside_world.world import Answer, World


class RecordedWorld:
    """Stands in for `HttpOutsideWorld` and the service behind it."""

    def __init__(self, record: Path, seed: int = 0, **kinds: dict[str, Any]) -> None:
        self.world = World(Record(record), Behaviours.model_validate(kinds), seed)
        self._lock = Lock()

    def charge(self, idempotency_key: str, order_id: str, amount: Decimal, card_type: str) -> Charge:
        with self._lock:
            answer = self.world.charge(idempotency_key, amount, {"orderId": order_id, "cardType": card_type})
        _raise(answer)
        return Charge(answer.content["status"], answer.content.get("reason"))

    def cancel(self, idempotency_key: str) -> None:
        with self._lock:
            answer = self.world.cancel(idempotency_key)
        _raise(answer)

    def deliver(self, service: Service, deliveries: Sequence[Delivery]) -> Sequence[OutsideError | None]:
        with self._lock:
            return [self._one(service, one.idempotency_key, one.content) for one in deliveries]

    def _one(self, service: Service, key: str, content: Mapping[str, Any]) -> OutsideError | None:
        try:
            _raise(self.world.deliver(service, key, dict(content)))
        except OutsideError as error:
            return error
        return None

    def close(self) -> None:
        self.world.record.close()

    def calls(self) -> list[Call]:
        with self._lock:
            return list(self.world.record.calls())

    def done(self, *kinds: str) -> list[Call]:
        """Calls whose work was done, of these kinds; of all if none is named."""
        return [call for call in self.calls() if call.did_work and (not kinds or call.kind in kinds)]


def _raise(answer: Answer) -> None:
    if answer.is_silent:
        raise OutsideSilent("a call", "told to be")
    if answer.status == 503:
        raise OutsideFailed("a call", "told to fail")
