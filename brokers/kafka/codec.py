"""CloudEvents 1.0 in Kafka's binary mode: attributes as `ce_` headers, JSON in the record's value, the key as its key.

`decode` is the inverse of `encode`; what it cannot read raises Malformed, which the subscriber turns into a delivery.
Not here: which topic and lane a record goes to (`publisher`), what a delivery is (`subscriber`).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from core.messaging.envelope import Envelope
from core.messaging.ports import Failure

Headers = Sequence[tuple[str, str | bytes | None]]
WireHeaders = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE = "application/json"
_SCHEMA = "urn:dataschema:"
_KNOWN = frozenset(
    {
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_subject",
        "ce_time",
        "ce_dataschema",
        "ce_sequence",
        "ce_correlationid",
        "ce_causationid",
        "content-type",
    }
)
_FAILURE_HEADERS = {
    "dlq_group",
    "dlq_reason",
    "dlq_attempts",
    "dlq_first_failed_at",
    "dlq_last_failed_at",
    "dlq_origin_topic",
    "dlq_origin_partition",
    "dlq_origin_offset",
}


class Malformed(ValueError):
    """Bytes that are no event of ours; the text says what is wrong with them."""


def encode(envelope: Envelope) -> list[tuple[str, str | bytes | None]]:
    """The record's headers; the client turns text into UTF-8."""
    (
        id_,
        _,
        type_,
        source,
        key,
        sequence,
        occurred_at,
        _,
        schema_version,
        correlation_id,
        causation_id,
        extra,
    ) = envelope
    time = occurred_at.isoformat()
    headers: list[tuple[str, str | bytes | None]] = [
        *_constant_headers(source, type_, schema_version),
        ("ce_id", id_),
        ("ce_subject", key),
        ("ce_time", time[:-6] + "Z" if time.endswith("+00:00") else time_text(occurred_at)),
    ]
    if sequence is not None:
        headers.append(("ce_sequence", str(sequence)))
    if correlation_id is not None:
        headers.append(("ce_correlationid", correlation_id))
    if causation_id is not None:
        headers.append(("ce_causationid", causation_id))
    # Ours last: among headers of one name the last counts, so no transport header can pass for an attribute.
    return [*extra, *headers] if extra else headers


@lru_cache(maxsize=4_096)
def _constant_headers(source: str, type_: str, schema_version: int) -> tuple[tuple[str, bytes], ...]:
    """What all events of one type share."""
    return (
        ("ce_specversion", b"1.0"),
        ("content-type", CONTENT_TYPE.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type_.encode()),
        ("ce_dataschema", f"{_SCHEMA}{type_}:{schema_version}".encode()),
    )


def decode(
    topic: str,
    headers: WireHeaders | None,
    key: bytes | None,
    value: bytes | None,
    is_letter: bool = False,
    new: Callable[[type[Envelope], tuple[object, ...]], Envelope] = tuple.__new__,
) -> Envelope:
    """The envelope as it was published to `topic`; raises Malformed with the reason.

    `is_letter`: a dead letter, whose headers of why and where from are not the event's.
    """
    if value is None:
        raise Malformed("the record has no value (a tombstone), an event has data")
    found = dict(headers) if headers else {}
    try:
        constant = _constants(
            found["ce_specversion"],
            found["content-type"],
            found["ce_type"],
            found["ce_source"],
            found.get("ce_dataschema"),
        )
        source, type_, schema_version = constant
        subject = found.get("ce_subject", key)
        sequence = found.get("ce_sequence")
        correlation_id = found.get("ce_correlationid")
        causation_id = found.get("ce_causationid")
        # `new` is tuple.__new__: an Envelope made by its own constructor costs as much as all the rest here.
        return new(
            Envelope,
            (
                _id(found["ce_id"]),
                topic,
                type_,
                source,
                subject.decode(),  # type: ignore[union-attr]  # None raises and is malformed
                None if sequence is None else int(sequence),
                _instant(found["ce_time"]),
                value,
                schema_version,
                None if correlation_id is None else correlation_id.decode(),
                None if causation_id is None else causation_id.decode(),
                () if headers is None or len(headers) <= len(_KNOWN & found.keys()) else _extra(headers, is_letter),
            ),
        )
    except KeyError as absent:
        raise Malformed(f"header {absent.args[0]} is absent") from absent
    except Malformed:
        raise
    except (ValueError, AttributeError, TypeError) as wrong:
        raise Malformed(f"a CloudEvents header cannot be read: {wrong}") from wrong


def _extra(headers: WireHeaders, is_letter: bool) -> tuple[tuple[str, bytes], ...]:
    not_extra = _KNOWN | _FAILURE_HEADERS if is_letter else _KNOWN
    return tuple((name, value or b"") for name, value in headers if name not in not_extra)


def _id(raw: bytes | None) -> str:
    if not raw:
        raise Malformed("header ce_id is empty")
    return raw.decode()


@lru_cache(maxsize=4_096)
def _constants(
    specversion: bytes | None,
    content_type: bytes | None,
    type_: bytes | None,
    source: bytes | None,
    schema: bytes | None,
) -> tuple[str, str, int]:
    """Source, type and schema version; few different ones exist, so each is checked and decoded once."""
    if specversion != b"1.0":
        raise Malformed(f"ce_specversion is {specversion!r}, this reads 1.0")
    media_type = (content_type or b"").decode().partition(";")[0].strip().lower()
    if media_type != CONTENT_TYPE:
        raise Malformed(f"content-type is {media_type!r}, this reads {CONTENT_TYPE}")
    if not type_ or not source:
        raise Malformed("ce_type or ce_source is empty")
    return source.decode(), type_.decode(), _schema_version(schema)


def _schema_version(schema: bytes | None) -> int:
    """1 where another writer names no version of ours."""
    text = (schema or b"").decode()
    version = text.rpartition(":")[2]
    return int(version) if text.startswith(_SCHEMA) and version.isdecimal() else 1


def _instant(raw: bytes | None) -> datetime:
    instant = datetime.fromisoformat((raw or b"").decode())
    if instant.tzinfo is UTC:
        return instant
    if instant.tzinfo is None:
        raise Malformed(f"ce_time {instant.isoformat()} has no time zone")
    return instant.astimezone(UTC)


def time_text(instant: datetime) -> str:
    """RFC 3339 in UTC with Z; microseconds kept."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def failure_headers(
    failure: Failure, group: str, origin_topic: str, partition: int, offset: int
) -> list[tuple[str, str | bytes | None]]:
    """What a dead letter carries beside its original headers."""
    return [
        ("dlq_group", group),
        ("dlq_reason", failure.reason),
        ("dlq_attempts", str(failure.attempts)),
        ("dlq_first_failed_at", time_text(failure.first_failed_at)),
        ("dlq_last_failed_at", time_text(failure.last_failed_at)),
        ("dlq_origin_topic", origin_topic),
        ("dlq_origin_partition", str(partition)),
        ("dlq_origin_offset", str(offset)),
    ]


def read_failure(headers: WireHeaders) -> tuple[Failure | None, str | None, str | None]:
    """Failure, group that gave it up, topic it came from; all None where a foreign writer left no such headers."""
    found = dict(headers)
    try:
        failure = Failure(
            reason=_text(found["dlq_reason"]),
            attempts=int(_text(found["dlq_attempts"])),
            first_failed_at=_instant(found["dlq_first_failed_at"]),
            last_failed_at=_instant(found["dlq_last_failed_at"]),
        )
        return failure, _text(found["dlq_group"]), _text(found["dlq_origin_topic"])
    except (KeyError, ValueError):
        return None, None, None


def without_failure(headers: WireHeaders) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value or b"") for name, value in headers if name not in _FAILURE_HEADERS)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()
