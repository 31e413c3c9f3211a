"""An envelope as an AMQP message and back, byte by byte the same as pika reads it."""

import threading
from datetime import UTC, datetime
from struct import pack

import pytest
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp
from cloudevents.core.formats.json import JSONFormat
from pika import data as pika_tables
from pika import spec

from brokers.rabbitmq import codec
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.pika_link import _marshal, headers_in
from brokers.rabbitmq.positions import Positions
from brokers.rabbitmq.subscriber import RabbitSubscriber, Session, Token
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure
from core.messaging.topology import Route, Topology

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
EVENT = Envelope(
    "0190aaaa-0000-7000-8000-000000000001", "orders", "OrderCreated", "/shop/order", "żółw-1", 7, AT, b'{"a":1}', 3,
    "c-1", None, (("z", b"\xff\x00"), ("a", b"text")),
)  # fmt: skip


def wire(envelope: Envelope) -> dict[str, object]:
    return codec.decode_table(codec.encode_table(codec.headers_of(envelope, 1_700_000_000_000)), 0)[0]


def test_an_envelope_comes_back_as_it_was() -> None:
    assert codec.envelope_of(wire(EVENT), EVENT.data, "orders") == EVENT


def test_an_envelope_without_optional_attributes_comes_back_as_it_was() -> None:
    bare = Envelope("i", "orders", "T", "/shop/order", "k", None, AT, b"")
    assert codec.envelope_of(wire(bare), b"", "orders") == bare


def test_headers_that_the_broker_sorted_come_back_in_the_publishers_order() -> None:
    by_name = dict(sorted(wire(EVENT).items()))
    assert codec.envelope_of(by_name, EVENT.data, "orders").headers == EVENT.headers


def test_bytes_that_a_stream_hands_back_as_text_are_bytes_again() -> None:
    as_text = {name: "text" if value == b"text" else value for name, value in wire(EVENT).items()}
    assert codec.envelope_of(as_text, EVENT.data, "orders").headers == EVENT.headers


def test_pika_reads_the_table_that_we_write() -> None:
    table = codec.encode_table(codec.headers_of(EVENT, 1_700_000_000_000))
    assert pika_tables.decode_table(table, 0) == (wire(EVENT), len(table))


def test_a_table_with_kinds_that_we_never_write_is_read_too() -> None:
    pieces: list[bytes] = []
    headers = {"x-death": [{"count": 2, "reason": "rejected"}], "flag": True, "none": None, "text": "ż"}
    pika_tables.encode_table(pieces, headers)
    assert codec.decode_table(b"".join(pieces), 0)[0] == headers


@pytest.mark.parametrize(
    "value",
    [
        b"T" + pack(">Q", 1_763_712_345_000),
        b"T" + pack(">Q", 2**63 - 1),
        b"T" + pack(">Q", 2**64 - 1),
        b"d" + pack(">d", float("inf")),
        b"A" + pack(">I", 9) + b"T" + pack(">Q", 2**63 - 1),
        b"F" + pack(">I", 11) + b"\1aT" + pack(">Q", 2**63 - 1),
    ],
)
def test_a_value_that_cannot_be_read_stays_bytes_and_what_is_around_it_is_read(value: bytes) -> None:
    fields = [b"\1a" + b"S" + pack(">I", 1) + b"x", b"\1b" + value, b"\1c" + b"t\1", b"\1d" + b"l" + pack(">q", 5)]
    table = b"".join(fields)
    found, end = codec.decode_table(pack(">I", len(table)) + table, 0)
    assert found == {"a": "x", "b": value[1:], "c": True, "d": 5}
    assert end == len(table) + 4


def test_every_kind_of_value_is_as_long_as_the_broker_says() -> None:
    sizes = {"V": 0, "t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "f": 4, "D": 5, "L": 8, "d": 8, "T": 8}
    for kind, size in sizes.items():
        table = b"\1a" + kind.encode() + bytes(size) + b"\1z" + b"l" + pack(">q", 5)
        assert codec.decode_table(pack(">I", len(table)) + table, 0)[0]["z"] == 5, kind


@pytest.mark.parametrize("schema", ["https://example.com/order.json", "urn:dataschema:OrderCreated:x", ""])
def test_a_schema_that_is_not_named_by_us_is_version_1(schema: str) -> None:
    assert codec.envelope_of({**wire(EVENT), "cloudEvents_dataschema": schema}, b"", "orders").schema_version == 1


@pytest.mark.parametrize(
    "properties",
    [
        spec.BasicProperties(headers={"a": "1"}),
        spec.BasicProperties("text/plain", "gzip", {"a": "1"}, 2, 5, "c", "r", "e", "m", 1, "t", "u", "app"),
    ],
)
def test_headers_are_found_among_any_other_properties(properties: spec.BasicProperties) -> None:
    assert headers_in(b"".join(properties.encode())) == {"a": "1"}


def test_a_message_without_headers_has_none() -> None:
    assert headers_in(b"".join(spec.BasicProperties(message_id="m").encode())) == {}


@pytest.mark.row("S0.39", on="rabbitmq")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cloudEvents_id": None}, "header cloudEvents_id is not there"),
        ({"cloudEvents_specversion": "0.3"}, "0.3"),
        ({"cloudEvents_time": "yesterday"}, "yesterday"),
        ({"cloudEvents_time": "2026-01-01T00:00:00"}, "time zone"),
        ({"cloudEvents_sequence": "many"}, "many"),
        ({"cloudEvents_subject": b"\xff"}, "not text"),
        ({"cloudEvents_correlationid": b"\xff"}, "not text"),
        ({"cloudEvents_causationid": 0}, "not text"),
        ({"cloudEvents_sequence": float("inf")}, "cannot be read"),
        ({"cloudEvents_time": "0001-01-01T00:00:00+14:00"}, "cannot be read"),
        ({"header_names": "[" * 9_000}, "cannot be read"),
    ],
)
def test_what_is_no_event_of_ours_is_malformed_and_says_why(change: dict[str, object], says: str) -> None:
    headers = {name: value for name, value in {**wire(EVENT), **change}.items() if value is not None}
    with pytest.raises(codec.Malformed, match=says):
        codec.envelope_of(headers, b"", "orders")


def test_the_official_library_reads_our_headers() -> None:
    found = from_amqp(AMQPMessage({"content-type": "application/json"}, wire(EVENT), EVENT.data), JSONFormat())
    assert (found.get_id(), found.get_subject(), found.get_time(), found.get_data()) == (
        EVENT.id,
        "żółw-1",
        AT,
        {"a": 1},
    )


def test_a_failure_travels_with_its_letter() -> None:
    failure = Failure("bad total", 5, AT, AT)
    headers = dict(codec.failure_headers(failure, "billing", "orders"))
    assert codec.failure_of(headers) == failure
    assert (headers[codec.FAILED_GROUP], headers[codec.ORIGIN]) == ("billing", "orders")


def test_an_id_longer_than_amqps_own_field_and_odd_headers_go_into_a_letter_too() -> None:
    shop = Topology({"OrderCreated": Route("orders", "order.created")}, {"billing": frozenset({"OrderCreated"})})
    config = RabbitConfig("amqp://guest:guest@127.0.0.1:1/")
    subscriber = RabbitSubscriber(config, shop, "billing", 10, Positions(), lambda: None)
    foreign = EVENT._replace(id="ż" * 200)
    name = b"\xff" * 200
    odd = b"\xc8" + name + b"l" + pack(">q", 5) + b"\1n" + b"d" + pack(">d", 1e300)
    headers, _ = codec.decode_table(pack(">I", len(odd)) + odd, 0)
    token = Token(Session(threading.Event()), 1, {**wire(foreign), **headers})
    letter = subscriber._letter(Delivery(foreign, "orders", 0, token), Failure("no UUID", 1, AT, AT))
    pieces: list[bytes] = []
    _marshal(letter, 131_064, pieces)
    assert letter.message_id == ""
    assert name in b"".join(pieces)
    assert codec.envelope_of(dict(letter.headers), letter.body, "orders").id == foreign.id


def test_what_the_broker_gave_up_by_itself_says_so() -> None:
    failure = codec.failure_of({"x-death": [{"reason": "delivery_limit", "count": 3, "time": AT}]})
    assert failure == Failure("given up by the broker: delivery_limit", 3, AT, AT)


def test_a_naive_time_cannot_travel() -> None:
    with pytest.raises(ValueError, match="time zone"):
        codec.headers_of(EVENT._replace(occurred_at=datetime(2026, 1, 1)), 0)


def test_a_foreign_header_is_kept_where_optional_attributes_are_absent() -> None:
    headers = {name: value for name, value in wire(EVENT).items() if name not in ("header_names", codec.PUBLISHED_MS)}
    del headers["cloudEvents_dataschema"]
    assert set(codec.envelope_of(headers, b"", "orders").headers) == set(EVENT.headers)
