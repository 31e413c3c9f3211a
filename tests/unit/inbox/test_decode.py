"""Unknown types and newer schemas are poison before a handler sees them."""

from datetime import UTC, datetime

import pytest

from core.domain.events import EVENT_TYPES
from core.inbox.handlers import Poison, known_types
from core.messaging.envelope import Envelope

DECODE = known_types({name: kind.schema_version for name, kind in EVENT_TYPES.items()})


def event(type: str, schema_version: int = 1) -> Envelope:
    return Envelope(
        "e-1", "order-events", type, "/shop/Order", "o-1", 1, datetime(2026, 1, 1, tzinfo=UTC), b"{}", schema_version
    )


@pytest.mark.parametrize("type", EVENT_TYPES)
def test_every_event_of_the_shop_is_known_at_its_own_version(type: str) -> None:
    assert DECODE(event(type, EVENT_TYPES[type].schema_version)) == event(type, EVENT_TYPES[type].schema_version)


@pytest.mark.parametrize(
    ("unknown", "reason"),
    [
        (event("OrderTeleported"), "unknown event type OrderTeleported"),
        (event("OrderCreated", 9), "OrderCreated version 9 is newer than 1"),
    ],
)
def test_what_the_shop_does_not_know_is_poison_with_its_reason(unknown: Envelope, reason: str) -> None:
    with pytest.raises(Poison) as caught:
        DECODE(unknown)
    assert (caught.value.event_id, caught.value.reason) == ("e-1", reason)
