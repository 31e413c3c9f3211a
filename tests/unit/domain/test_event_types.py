"""The rules every registered event type keeps, and the form payloads have on the wire."""

import json
import re
from decimal import Decimal

import msgspec
import pytest

from core.domain.events import (
    EVENT_TYPES,
    ORDER_COMMANDS,
    ORDER_EVENTS,
    Command,
    Event,
    InventoryReservationFailed,
    InventoryReserved,
    OrderCancelled,
    OrderConfirmed,
    OrderCreated,
    OrderItem,
    OrderPaid,
    PaymentCompleted,
    PaymentFailed,
    UnreadableEvent,
    from_json,
    to_json,
)

CREATED = OrderCreated(
    order_id="o-1",
    order_number="1001",
    customer_id="c-1",
    buyer_email=None,
    seller_ids=("seller-a",),
    items=(OrderItem(product_id=1, seller_id="seller-a", quantity=2, price=Decimal("100.00")),),
    original_total_amount=Decimal("200.00"),
    discount_amount=Decimal("0.00"),
    total_amount=Decimal("200.00"),
    shipping_address="1 Harbour Street",
)


IN_THE_PAST = re.compile(r"([A-Z][a-z]+)+?(ed|Sold|Paid)")
IMPERATIVE = re.compile(r"(Reserve|Release|Process|Confirm|Cancel)([A-Z][a-z]+)+(?<!ed)")


@pytest.mark.parametrize("name", EVENT_TYPES)
@pytest.mark.row("S0.10", "S0.14")
def test_a_registered_type_is_immutable_and_routed_by_a_dotted_key(name: str) -> None:
    kind = EVENT_TYPES[name]
    assert kind.payload.__name__ == name
    assert kind.payload.__struct_config__.frozen
    assert re.fullmatch(r"[a-z]+(\.[a-z-]+)+", kind.event_key)
    assert kind.schema_version >= 1


@pytest.mark.parametrize("name", EVENT_TYPES)
@pytest.mark.row("S0.10")
def test_an_event_is_named_in_the_past_tense_and_a_command_in_the_imperative_on_its_own_topic(name: str) -> None:
    kind = EVENT_TYPES[name]
    is_command = issubclass(kind.payload, Command)
    assert (IMPERATIVE if is_command else IN_THE_PAST).fullmatch(name)
    assert not (IN_THE_PAST if is_command else IMPERATIVE).fullmatch(name)
    assert is_command == (kind.topic == ORDER_COMMANDS) == (kind.aggregate_type == "OrderSaga")


@pytest.mark.parametrize("name", ["ShipOrder", "OrderConfirm", "PaymentEvent"])
def test_a_name_of_neither_form_would_be_noticed(name: str) -> None:
    assert not IN_THE_PAST.fullmatch(name)
    assert not IMPERATIVE.fullmatch(name)


def test_the_facts_about_one_order_share_its_key_and_so_its_lane_but_count_their_own_versions() -> None:
    of_an_order = {kind.aggregate_type for kind in EVENT_TYPES.values() if kind.topic == ORDER_EVENTS}
    assert of_an_order == {"Order", "StockReservation", "Payment"}


def test_no_two_event_types_share_a_topic_and_an_event_key() -> None:
    places = [(kind.topic, kind.event_key) for kind in EVENT_TYPES.values()]
    assert len(set(places)) == len(places)


def test_a_payload_is_a_json_object_in_camel_case_with_money_as_numbers() -> None:
    text = to_json(CREATED)
    assert json.loads(text)["items"] == [{"productId": 1, "sellerId": "seller-a", "quantity": 2, "price": 100.0}]
    assert b'"totalAmount":200.00' in text


MONEY = {
    "original_total_amount": Decimal("200.00"),
    "discount_amount": Decimal("0.00"),
    "total_amount": Decimal("200.00"),
}
ORDER = {"order_id": "o-1", "order_number": "1001", "customer_id": "c-1"}
PAYMENT = {
    **ORDER,
    "payment_id": "pay-o-1",
    "amount": Decimal("200.00"),
    "card_type": "CREDIT",
    "payment_method": "CARD",
}
PAID = {"orderId": "o-1", "paymentId": "pay-o-1", "amount": 200.00, "paymentMethod": "CARD"}
ITEM = {"productId": 1, "sellerId": "seller-a", "quantity": 2, "price": 100.00}
ON_THE_WIRE: list[tuple[Event, dict[str, object]]] = [
    (
        CREATED,
        {
            "orderId": "o-1",
            "customerId": "c-1",
            "totalAmount": 200.00,
            "items": [ITEM],
            "shippingAddress": "1 Harbour Street",
        },
    ),
    (OrderConfirmed(**ORDER, **MONEY), {"orderId": "o-1", "customerId": "c-1", "totalAmount": 200.00}),
    (
        OrderCancelled(**ORDER, **MONEY, reason="changed my mind", cancelled_by="c-1"),
        {"orderId": "o-1", "reason": "changed my mind", "cancelledBy": "c-1"},
    ),
    (
        OrderPaid(
            order_id="o-1",
            customer_id="c-1",
            payment_id="pay-o-1",
            payment_method="CARD",
            total_amount=Decimal("200.00"),
        ),
        {"orderId": "o-1", "paymentId": "pay-o-1", "totalAmount": 200.00, "paymentMethod": "CARD"},
    ),
    (PaymentCompleted(**PAYMENT), PAID),
    (PaymentFailed(**PAYMENT, reason="card declined"), {**PAID, "reason": "card declined"}),
    (
        InventoryReserved(order_id="o-1", items=CREATED.items, total_amount=Decimal("200.00")),
        {"orderId": "o-1", "totalAmount": 200.00, "items": [ITEM]},
    ),
    (
        InventoryReservationFailed(order_id="o-1", error_message="not enough stock of 1", short_items=(1,)),
        {"orderId": "o-1", "errorMessage": "not enough stock of 1"},
    ),
]
"""An event, and what its readers find on the wire; more may be added, none of these may change its name or form."""


@pytest.mark.parametrize(("event", "fields"), ON_THE_WIRE, ids=[type(event).__name__ for event, _ in ON_THE_WIRE])
@pytest.mark.row("S2.5", "S3.2", "S3.3")
def test_an_event_carries_its_fields_by_these_names(event: Event, fields: dict[str, object]) -> None:
    found = json.loads(to_json(event))
    assert {name: found.get(name) for name in fields} == fields
    assert from_json(type(event).__name__, 1, to_json(event)) == event


@pytest.mark.row("S0.8")
def test_order_created_tells_all_that_whoever_reacts_to_it_needs() -> None:
    told = json.loads(to_json(msgspec.structs.replace(CREATED, buyer_email="c-1@example.org")))
    who = {"orderId": "o-1", "orderNumber": "1001", "customerId": "c-1", "buyerEmail": "c-1@example.org"}
    what = {"sellerIds": ["seller-a"], "totalAmount": 200.0, "shippingAddress": "1 Harbour Street"}
    assert told.items() >= (who | what).items()
    assert told["items"] == [{"productId": 1, "sellerId": "seller-a", "quantity": 2, "price": 100.0}]


def test_a_payload_read_back_equals_what_was_written_money_to_the_cent() -> None:
    assert from_json("OrderCreated", 1, to_json(CREATED)) == CREATED
    odd = msgspec.structs.replace(CREATED, total_amount=Decimal("9007199254740993.01"))
    assert from_json("OrderCreated", 1, to_json(odd)) == odd


def test_a_field_this_reader_does_not_know_is_ignored() -> None:
    payload = json.loads(to_json(CREATED)) | {"addedLater": True}
    assert from_json("OrderCreated", 1, json.dumps(payload).encode()) == CREATED


@pytest.mark.parametrize(
    ("event_type", "schema_version", "data", "reason"),
    [
        ("OrderVanished", 1, b"{}", "not registered"),
        ("OrderCreated", 2, b"{}", "schema 2"),
        ("OrderCreated", 1, b"{}", "missing required field"),
        ("OrderCreated", 1, b'"{\\"orderId\\":1}"', "got `str`"),
        ("OrderCreated", 1, b"\xff", "OrderCreated"),
    ],
)
def test_what_cannot_be_read_says_why(event_type: str, schema_version: int, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableEvent, match=re.escape(reason)):
        from_json(event_type, schema_version, data)


@pytest.mark.row("S0.10")
def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        CREATED.order_id = "o-2"  # type: ignore[misc]
