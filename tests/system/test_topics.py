"""Every event and command through the outbox and each real broker: the object it was, and in order per product."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from core.commands.context import envelope_of, new_uuid7
from core.domain.events import (
    CATALOG_EVENTS,
    EVENT_TYPES,
    ORDER_EVENTS,
    LikeChanged,
    OrderItem,
    ProductViewed,
    Raised,
    from_json,
)
from core.messaging.envelope import Envelope
from core.outbox.rows import add_events
from tests.system.shop_threads import Shop, settings_for, shop_on

BROKERS = ("kafka", "rabbitmq")
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
PRODUCTS = 5
VALUES: dict[object, Any] = {
    str: 'said "so", \\{ü}',
    int: 7,
    Decimal: Decimal("9007199254740993.10"),
    datetime: AT,
    OrderItem: OrderItem(product_id=7, seller_id='"s"', quantity=2, price=Decimal("0.10")),
}


def value_of(hint: Any) -> Any:
    if hint in VALUES:
        return VALUES[hint]
    inner = value_of(get_args(hint)[0])
    return inner if get_origin(hint) is UnionType else (inner, inner)


def one_of_each_type() -> Iterator[Envelope]:
    for name, kind in EVENT_TYPES.items():
        hints = {field: get_type_hints(kind.payload)[field] for field in kind.payload.__struct_fields__}
        event = kind.payload(**{field: value_of(hint) for field, hint in hints.items()})
        yield envelope_of(Raised(f"of {name}", None, event), new_uuid7(), AT, None)


def facts(each: int) -> Iterator[Envelope]:
    """Of all products in turn; the n-th of each is the n-th customer's."""
    for turn in range(each):
        for product in range(1, PRODUCTS + 1):
            viewed = ProductViewed(product_id=product, customer_id=f"c-{turn}")
            liked = LikeChanged(product_id=product, customer_id=f"c-{turn}", delta=1)
            yield envelope_of(Raised(str(product), None, liked if turn % 2 else viewed), new_uuid7(), AT, None)


@pytest.mark.row("S0.41", "S1.12")
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("partitions", [1, 3])
def test_every_type_arrives_as_the_object_it_was_and_a_product_s_facts_in_order(
    request: pytest.FixtureRequest, partitions: int, broker: str, database: str
) -> None:
    sent = [*one_of_each_type(), *facts(each=40)]
    with shop_on(settings_for(request, broker, database, partitions=partitions), []) as shop:
        with shop.database.engine.begin() as connection:
            add_events(connection, shop.database.messaging, sent)
        shop.wait(lambda: shop.rows("SELECT count(*) FROM pending") == [(0,)])
        admin = shop.broker.admin()
        topics = {topic: list(admin.read_all(topic)) for topic in {kind.topic for kind in EVENT_TYPES.values()}}
        admin.close()
        assert {ORDER_EVENTS, CATALOG_EVENTS} <= topics.keys()
        assert {delivery.lane for delivery in topics[CATALOG_EVENTS]} == set(range(partitions))
        arrived = {one.envelope.id: one.envelope for found in topics.values() for one in found if one.envelope}
        assert arrived.keys() == {envelope.id for envelope in sent}
        for envelope in sent:
            came = arrived[envelope.id]
            assert isinstance(json.loads(came.data), dict), "JSON text that was made JSON again is a string"
            assert (came.type, came.topic) == (envelope.type, EVENT_TYPES[envelope.type].topic)
            assert from_json(came.type, 1, came.data) == from_json(envelope.type, 1, envelope.data)
        assert told_by_product(shop) == told(sent)


def told_by_product(shop: Shop) -> dict[str, list[str]]:
    """What the group that counts facts is handed, by product."""
    subscriber = shop.broker.subscriber("product-metrics", 500)
    found: list[Envelope] = []
    give_up_at = monotonic() + 60
    while len(found) < PRODUCTS * 40 + 3:
        assert monotonic() < give_up_at, f"only {len(found)} came"
        deliveries = subscriber.receive(500, 0.2)
        subscriber.ack(deliveries)
        found += [delivery.envelope for delivery in deliveries if delivery.envelope]
    subscriber.close()
    return told(found)


def told(envelopes: list[Envelope]) -> dict[str, list[str]]:
    """Product -> ids of its facts, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for envelope in envelopes:
        if envelope.topic == CATALOG_EVENTS:
            found[envelope.key].append(envelope.id)
    return found
