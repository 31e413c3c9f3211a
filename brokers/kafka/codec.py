"""CloudEvents 1.0 in Kafka's binary mode: attributes as `ce_` headers, JSON in the record's value, the key as its key.

`decode` is the inverse of `encode`; what it cannot read raises Malformed, which the subscriber turns into a delivery.
Not here: which topic and lane a record goes to (`publisher`), what a delivery is (`subscriber`).
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Any

import orjson

from core.messaging.envelope import SCHEMA, Envelope, schema_version_of
from core.messaging.ports import Failure

Header = list[tuple[str, str | bytes | None]]
Headers = Sequence[tuple[str, str | bytes | None]]
WireHeaders = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE = "application/json"
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


_NOT_YET = Malformed("not decoded")


def encode(envelope: Envelope) -> Header:
    """The record's headers; the client turns text into UTF-8."""
    return next(encode_all([envelope]))


def encode_all(batch: Sequence[Envelope]) -> Iterator[Header]:
    """As `encode`, one list an envelope. By columns: one step for all in C costs a fifth of a loop's."""
    if not batch:
        return
    ids, _, types, sources, keys, sequences, times, _, versions, correlations, causations, extras = zip(
        *batch, strict=True
    )
    for constant, id_, subject, time, sequence, correlation_id, causation_id, extra in zip(
        map(_constant_headers, sources, types, versions),
        zip(repeat("ce_id"), ids, strict=False),
        zip(repeat("ce_subject"), keys, strict=False),
        zip(repeat("ce_time"), _time_texts(times), strict=False),
        sequences,
        correlations,
        causations,
        extras,
        strict=True,
    ):
        headers: Header = [*constant, id_, subject, time]
        if sequence is not None:
            headers.append(("ce_sequence", str(sequence)))
        if correlation_id is not None:
            headers.append(("ce_correlationid", correlation_id))
        if causation_id is not None:
            headers.append(("ce_causationid", causation_id))
        # Ours last: among headers of one name the last counts, so no transport header can pass for an attribute.
        yield [*extra, *headers] if extra else headers


def _time_texts(times: Sequence[datetime]) -> list[bytes]:
    """RFC 3339 with Z, microseconds kept; orjson writes an instant ten times faster than isoformat."""
    return orjson.dumps(times, option=orjson.OPT_UTC_Z)[2:-2].split(b'","')


@lru_cache(maxsize=4_096)
def _constant_headers(source: str, type_: str, schema_version: int) -> tuple[tuple[str, bytes], ...]:
    """What all events of one type share."""
    return (
        ("ce_specversion", b"1.0"),
        ("content-type", CONTENT_TYPE.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type_.encode()),
        ("ce_dataschema", f"{SCHEMA}{type_}:{schema_version}".encode()),
    )


def decode_all(
    topic: str, headers: Sequence[WireHeaders | None], keys: Sequence[bytes | None], values: Sequence[bytes | None]
) -> list[Envelope | Malformed]:
    """As `decode`, one envelope a record or what is wrong with it, in order. By columns, as `encode_all`."""
    alike: dict[int, list[int]] = {}
    for index, found in enumerate(headers):
        alike.setdefault(len(found or ()), []).append(index)
    if len(alike) == 1 and (envelopes := _decode_alike(topic, headers, values)) is not None:
        return envelopes
    decoded: list[Envelope | Malformed] = [_NOT_YET] * len(headers)
    for indices in alike.values():
        envelopes = _decode_alike(topic, [headers[i] for i in indices], [values[i] for i in indices])
        for index, envelope in zip(
            indices, envelopes or (_decoded_or_not(topic, headers[i], keys[i], values[i]) for i in indices), strict=True
        ):
            decoded[index] = envelope
    return decoded


_LAYOUT = (
    "ce_specversion",
    "content-type",
    "ce_source",
    "ce_type",
    "ce_dataschema",
    "ce_id",
    "ce_subject",
    "ce_time",
    "ce_sequence",
    "ce_correlationid",
    "ce_causationid",
)
"""What `encode` writes, in its order, where nothing is left out at the end and nothing was put before."""


def _decode_alike(
    topic: str, headers: Sequence[WireHeaders | None], values: Sequence[bytes | None]
) -> "list[Envelope | Malformed] | None":
    """Envelopes of records that all hold exactly the first headers of the layout; None if one does not, or is wrong."""
    width = len(headers[0] or ())
    # More than we ever write: the last ones are another writer's, or repeat a name, and then the last counts.
    if not 8 <= width <= len(_LAYOUT) or None in values:
        return None
    # Column by column: one step for all in C. What events of one type share is only compared with the first record's.
    columns = list(zip(*(found or () for found in headers), strict=True))
    count = len(headers)
    if any(
        _names(column).count(name) < count for name, column in zip(_LAYOUT[_SHARED:], columns[_SHARED:], strict=False)
    ):
        return None
    texts = bytes.decode
    nothing = repeat(None)
    own: list[Any] = [map(_value, column) for column in columns[_SHARED:]]
    try:
        constants = _constants_of(columns[:_SHARED])
        ids = list(map(texts, own[0]))
        times = list(map(datetime.fromisoformat, map(texts, own[2])))
        if constants is None or not all(ids) or list(map(_time_zone, times)).count(UTC) < count:
            return None
        sources, types, versions = constants
        rows = zip(
            ids,
            repeat(topic),
            types,
            sources,
            map(texts, own[1]),
            map(int, own[3]) if width > 8 else nothing,
            times,
            values,
            versions,
            map(texts, own[4]) if width > 9 else nothing,
            map(texts, own[5]) if width > 10 else nothing,
            repeat(()),
            strict=False,
        )
        # tuple.__new__: an Envelope made by its own constructor costs as much as all the rest here.
        return list(map(tuple.__new__, repeat(Envelope), rows))
    except (ValueError, TypeError):
        return None


_SHARED = 5
"""So many headers at the layout's start are the same in all events of one type."""
_name, _value, _time_zone = itemgetter(0), itemgetter(1), attrgetter("tzinfo")


def _names(column: Sequence[tuple[str, Any]]) -> list[str]:
    return list(map(_name, column))


def _constants_of(
    columns: Sequence[Sequence[tuple[str, Any]]],
) -> tuple[Iterable[str], Iterable[str], Iterable[int]] | None:
    """Sources, types and schema versions of all records; None if one is laid out otherwise. Raises Malformed."""
    first = [column[0] for column in columns]
    if tuple(map(_name, first)) != _LAYOUT[:_SHARED]:
        return None
    if all(column.count(one) == len(column) for one, column in zip(first, columns, strict=True)):
        source, type_, version = _constants(first[0][1], first[1][1], first[3][1], first[2][1], first[4][1])
        return repeat(source), repeat(type_), repeat(version)
    if any(_names(column).count(name) < len(column) for name, column in zip(_LAYOUT, columns, strict=False)):
        return None
    version_, media, sources, types, schemas = ([value for _, value in column] for column in columns)
    found = list(map(_constants, version_, media, types, sources, schemas))
    return map(itemgetter(0), found), map(itemgetter(1), found), map(itemgetter(2), found)


def _decoded_or_not(
    topic: str, headers: WireHeaders | None, key: bytes | None, value: bytes | None
) -> Envelope | Malformed:
    try:
        return decode(topic, headers, key, value)
    except Malformed as wrong:
        return wrong


def decode(
    topic: str,
    headers: WireHeaders | None,
    key: bytes | None,
    value: bytes | None,
    is_letter: bool = False,
) -> Envelope:
    """The envelope as it was published to `topic`; raises Malformed with the reason.

    `is_letter`: a dead letter, whose headers of why and where from are not the event's.
    """
    if value is None:
        raise Malformed("the record has no value (a tombstone), an event has data")
    found = dict(headers) if headers else {}
    try:
        source, type_, schema_version = _constants(
            found["ce_specversion"],
            found["content-type"],
            found["ce_type"],
            found["ce_source"],
            found.get("ce_dataschema"),
        )
        subject = found.get("ce_subject", key)
        if subject is None:
            raise Malformed("neither ce_subject nor a record key says what fixes its order")
        return Envelope(
            id=_id(found["ce_id"]),
            topic=topic,
            type=type_,
            source=source,
            key=subject.decode(),
            sequence=_number(found.get("ce_sequence")),
            occurred_at=_instant(found["ce_time"]),
            data=value,
            schema_version=schema_version,
            correlation_id=_optional_text(found.get("ce_correlationid")),
            causation_id=_optional_text(found.get("ce_causationid")),
            headers=_extra(headers or (), is_letter),
        )
    except KeyError as absent:
        raise Malformed(f"header {absent.args[0]} is absent") from absent
    except Malformed:
        raise
    except (ValueError, OverflowError) as wrong:
        raise Malformed(f"a CloudEvents header cannot be read: {wrong}") from wrong


def _extra(headers: WireHeaders, is_letter: bool) -> tuple[tuple[str, bytes], ...]:
    not_extra = _KNOWN | _FAILURE_HEADERS if is_letter else _KNOWN
    return tuple((name, value or b"") for name, value in headers if name not in not_extra)


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int(raw)


def _optional_text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


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
    return source.decode(), type_.decode(), schema_version_of((schema or b"").decode())


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
    except (KeyError, ValueError, OverflowError):
        return None, None, None


def without_failure(headers: WireHeaders) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value or b"") for name, value in headers if name not in _FAILURE_HEADERS)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()
