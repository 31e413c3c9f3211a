"""CloudEvents on Kafka's wire: what goes out comes back, others can read it, and what is no event says why."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from hypothesis import given
from hypothesis import strategies as st

from brokers.kafka.codec import (
    Malformed,
    decode,
    decode_all,
    encode,
    encode_all,
    failure_headers,
    read_failure,
    without_failure,
)
from core.messaging.envelope import Envelope
from core.messaging.ports import Failure

EVENT = Envelope(
    id="01890a5d-ac96-774b-bcce-b302099a8057",
    topic="orders",
    type="OrderCreated",
    source="/shop/order",
    key="o-7",
    sequence=3,
    occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    data=b'{"total":"12.50"}',
    schema_version=2,
    correlation_id="c-1",
    causation_id="e-1",
)
BARE = EVENT._replace(sequence=None, correlation_id=None, causation_id=None)
Wire = list[tuple[str, bytes | None]]


def wire(envelope: Envelope) -> Wire:
    """As the broker gives it back: all bytes."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in encode(envelope)]


def changed(name: str, value: bytes | None) -> Wire:
    return [(n, value if n == name else v) for n, v in wire(EVENT)]


def without(name: str) -> Wire:
    return [(n, v) for n, v in wire(EVENT) if n != name]


def test_an_event_comes_back_as_it_was_sent() -> None:
    assert decode("orders", wire(EVENT), b"o-7", EVENT.data) == EVENT
    assert decode("orders", wire(BARE), b"o-7", EVENT.data) == BARE


@given(
    st.lists(
        st.builds(
            Envelope,
            id=st.uuids().map(str),
            topic=st.just("orders"),
            type=st.sampled_from(["OrderCreated", "OrderPaid", "Bestätigt"]),
            source=st.sampled_from(["/shop/order", "/shop/ticket"]),
            key=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
            sequence=st.none() | st.integers(1, 10**12),
            occurred_at=st.datetimes(timezones=st.just(UTC)),
            data=st.binary(max_size=20),
            schema_version=st.integers(1, 9),
            correlation_id=st.none() | st.text(max_size=5),
            causation_id=st.none() | st.text(max_size=5),
            headers=st.lists(st.tuples(st.sampled_from(["x-a", "ü"]), st.binary(max_size=4)), max_size=2).map(tuple),
        ),
        max_size=8,
    )
)
def test_a_batch_by_columns_is_the_same_as_one_by_one(batch: Sequence[Envelope]) -> None:
    headers = [[(n, v.encode() if isinstance(v, str) else v) for n, v in found] for found in encode_all(batch)]
    keys, values = [envelope.key.encode() for envelope in batch], [envelope.data for envelope in batch]
    assert decode_all("orders", headers, keys, values) == batch
    assert [decode("orders", h, k, v) for h, k, v in zip(headers, keys, values, strict=True)] == batch


def test_one_malformed_record_leaves_its_neighbours_whole() -> None:
    headers = [wire(EVENT), changed("ce_time", b"yesterday"), wire(EVENT)]
    first, second, third = decode_all("orders", headers, [b"o-7"] * 3, [EVENT.data] * 3)
    assert (first, third) == (EVENT, EVENT)
    assert isinstance(second, Malformed)


@pytest.mark.row("S0.39", on="kafka")
@pytest.mark.parametrize(
    ("headers", "value", "said"),
    [
        (None, b"{}", "ce_specversion is absent"),
        ([], b"{}", "ce_specversion is absent"),
        (without("ce_id"), b"{}", "ce_id is absent"),
        (without("ce_time"), b"{}", "ce_time is absent"),
        (changed("ce_id", b""), b"{}", "ce_id is empty"),
        (changed("ce_id", b"\xff"), b"{}", "cannot be read"),
        (changed("ce_specversion", b"0.3"), b"{}", "ce_specversion is b'0.3'"),
        (changed("content-type", b"application/avro"), b"{}", "content-type is 'application/avro'"),
        (changed("ce_type", b""), b"{}", "ce_type or ce_source is empty"),
        (changed("ce_sequence", b"third"), b"{}", "cannot be read"),
        (changed("ce_time", b"2026-01-01T00:00:00"), b"{}", "no time zone"),
        (changed("ce_time", None), b"{}", "cannot be read"),
        (changed("ce_time", b"0001-01-01T00:00:00+14:00"), b"{}", "cannot be read"),
        (wire(EVENT), None, "no value"),
    ],
)
def test_what_is_no_event_is_malformed_and_says_why(headers: Wire | None, value: bytes | None, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        decode("orders", headers, b"o-7", value)
    [together] = decode_all("orders", [headers], [b"o-7"], [value])
    assert isinstance(together, Malformed)
    assert said in str(together)


@pytest.mark.parametrize(
    "headers",
    [
        [*wire(EVENT), ("traceparent", b"00-1")],
        [*wire(EVENT), ("traceparent", b"00-1"), ("empty", None)],
        [*wire(EVENT), ("ce_id", b"another")],
        [*wire(BARE), ("ce_causationid", b"e-1")],
        [("traceparent", b"00-1"), *wire(EVENT)],
        sorted(wire(EVENT)),
        wire(EVENT)[::-1],
        [header for header in wire(EVENT) if header[0] not in ("ce_dataschema", "ce_correlationid")],
    ],
    ids=["one more", "two more", "repeated", "other optional", "one before", "sorted", "reversed", "fewer"],
)
def test_header_lists_of_other_writers_mean_the_same_in_a_batch_as_alone(headers: Wire) -> None:
    alone = decode("orders", headers, b"o-7", EVENT.data)
    assert decode_all("orders", [headers] * 3, [b"o-7"] * 3, [EVENT.data] * 3) == [alone] * 3
    assert decode_all("orders", [wire(EVENT), headers], [b"o-7"] * 2, [EVENT.data] * 2) == [EVENT, alone]


def test_a_record_without_subject_is_ordered_by_its_record_key() -> None:
    assert decode("orders", without("ce_subject"), b"o-9", b"{}").key == "o-9"
    with pytest.raises(Malformed, match="what fixes its order"):
        decode("orders", without("ce_subject"), None, b"{}")


def test_a_transport_header_cannot_pass_for_the_idempotency_key() -> None:
    forged = EVENT._replace(headers=(("ce_id", b"another"), ("x-trace", b"\x00\xff")))
    found = decode("orders", wire(forged), b"o-7", EVENT.data)
    assert found.id == EVENT.id
    assert found.headers == (("x-trace", b"\x00\xff"),)


def test_a_time_of_another_zone_is_read_as_the_same_instant() -> None:
    elsewhere = EVENT._replace(occurred_at=EVENT.occurred_at.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert decode("orders", wire(elsewhere), b"o-7", EVENT.data) == EVENT


def test_the_official_package_reads_what_is_sent() -> None:
    message = KafkaMessage(headers=dict(wire(EVENT)), key=b"o-7", value=EVENT.data)
    event = from_kafka_event(message)
    assert event.get_id() == EVENT.id
    assert event.get_source() == "/shop/order"
    assert event.get_type() == "OrderCreated"
    assert event.get_subject() == "o-7"
    assert event.get_time() == EVENT.occurred_at
    assert event.get_extension("sequence") == "3"
    assert event.get_extension("correlationid") == "c-1"
    assert event.get_data() == {"total": "12.50"}


def test_a_dead_letter_keeps_the_event_and_says_why_it_was_given_up() -> None:
    failure = Failure("Zahlung abgelehnt: ä", 4, EVENT.occurred_at, EVENT.occurred_at + timedelta(seconds=9))
    more = failure_headers(failure, "billing", "orders", 2, 41)
    letter = [*wire(EVENT), *((n, v.encode() if isinstance(v, str) else v) for n, v in more)]
    assert read_failure(letter) == (failure, "billing", "orders")
    assert decode("orders", letter, b"o-7", EVENT.data, is_letter=True) == EVENT
    assert without_failure(letter) == tuple(wire(EVENT))


def test_a_foreign_dead_letter_has_no_failure_of_ours() -> None:
    assert read_failure(wire(EVENT)) == (None, None, None)
    too_early = failure_headers(Failure("r", 1, EVENT.occurred_at, EVENT.occurred_at), "billing", "orders", 2, 41)
    found = [(name, b"0001-01-01T00:00:00+14:00" if name.endswith("_at") else b"1") for name, _ in too_early]
    assert read_failure(found) == (None, None, None)
