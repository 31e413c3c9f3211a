"""A dead letter's row holds all that is needed to handle it again, whatever came on the wire."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from core.inbox.letters import digest, envelope_of, row_of
from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FAILURE = Failure("no price", 5, NOON, NOON + timedelta(seconds=9))
EVENT = Envelope(
    "0190a0a0-0000-7000-8000-000000000001", "orders", "OrderCreated", "/shop/Order", "order-1", 3, NOON, b'{"a": 1}'
)


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        EVENT._replace(sequence=None, schema_version=4, correlation_id="c", causation_id="d"),
        EVENT._replace(headers=(("trace", b"\x00\xff"), ("trace", b""))),
        EVENT._replace(data=b"\x00\xfe no JSON", id="no UUID, with a \0", key="k\0" * 900, type="T" * 300),
        EVENT._replace(occurred_at=datetime(2026, 1, 1, 13, 0, 0, 7, tzinfo=timezone(timedelta(hours=1)))),
    ],
    ids=["plain", "all attributes", "headers", "odd text", "another time zone"],
)
def test_a_letter_gives_its_event_back_unchanged(event: Envelope) -> None:
    row = row_of(Delivery(event, "orders", 0, None), "orders", "billing", FAILURE)
    assert envelope_of(row) == event


def test_a_letters_columns_say_who_gave_up_what_and_why() -> None:
    row = row_of(Delivery(EVENT, "orders", 0, None), "orders", "billing", FAILURE)
    del row["headers"]
    assert row == {
        "topic": "orders",
        "consumer_group": "billing",
        "event_id": EVENT.id,
        "event_type": "OrderCreated",
        "key": "order-1",
        "body": b'{"a": 1}',
        "reason": "no price",
        "attempts": 5,
        "first_failed_at": NOON,
        "last_failed_at": NOON + timedelta(seconds=9),
    }


def test_text_that_the_database_cannot_hold_is_replaced_or_cut_in_its_column() -> None:
    event = EVENT._replace(id="i\0" * 100, type="T" * 300, key="k\0" * 900)
    failure = FAILURE._replace(reason="no\0price", attempts=10**12)
    row = row_of(Delivery(event, "orders", 0, None), "t\0" * 200, "g\0" * 100, failure)
    assert (len(row["event_id"]), len(row["event_type"]), len(row["key"])) == (100, 100, 1_000)
    assert (len(row["topic"]), len(row["consumer_group"]), row["attempts"]) == (200, 100, 2**31 - 1)
    assert not any("\0" in value for value in row.values() if isinstance(value, str))


def malformed(**more: Any) -> Delivery:
    return Delivery(None, "orders", 0, None, error="no id", **more)


def test_a_malformed_letter_keeps_its_bytes_and_is_no_event() -> None:
    row = row_of(malformed(body=b"\x00{", wire_headers=(("k", b"\xff"),), key="a\0"), "orders", "billing", FAILURE)
    assert (row["event_type"], row["body"], row["key"]) == (None, b"\x00{", "a\N{REPLACEMENT CHARACTER}")
    assert envelope_of(row) is None


def test_the_same_malformed_bytes_are_one_letter_and_other_bytes_another() -> None:
    first = digest(b"body", (("a", b"1"),))
    assert first == digest(b"body", (("a", b"1"),))
    others = [
        digest(b"", ()),
        digest(b"body", ()),
        digest(b"body", (("a", b"2"),)),
        digest(b"body", (("a1", b""),)),
        digest(b"bodya", (("", b"1"),)),
    ]
    assert len({first, *others}) == 6
    assert len(first) <= 100
