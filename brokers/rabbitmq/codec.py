"""An envelope as an AMQP message and back: CloudEvents 1.0, binary mode, header prefix `cloudEvents_`.

`id`, `type`, ... travel as headers; the body is the data; what is no CloudEvents attribute keeps its own name and its
bytes. Header tables are read and written here directly: pika's own code takes 3 to 5 times as long a message.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from struct import Struct
from typing import NamedTuple

from pika import data as pika_tables

from core.messaging.envelope import SCHEMA, Envelope, schema_version_of
from core.messaging.ports import Failure

PREFIX = "cloudEvents_"
PUBLISHED_MS = "timestamp_in_ms"
"""The name RabbitMQ's own timestamp interceptor uses; the AMQP property knows whole seconds only."""
MARKER = "x-audit-marker"
"""Header of what `Admin.read_all` puts at a stream's end to know where to stop; no message of anybody."""
_FAILURE = "dlq_"
_ORDER = "header_names"
_OURS = frozenset({PUBLISHED_MS, _ORDER})
_BROKERS = ("x-stream-", "x-delivery-count", "x-death", "x-first-death-", "x-last-death-", "x-acquired-count")
ORIGIN = "dlq_origin_topic"
FAILED_GROUP = "dlq_group"

HeaderValue = str | bytes | int
Headers = list[tuple[str, HeaderValue]]

_LONG, _DOUBLE = Struct(">I"), Struct(">q")
_SIZES = {
    ord(kind): size
    for kinds, size in (("V", 0), ("tbB", 1), ("suU", 2), ("iIf", 4), ("D", 5), ("LdT", 8))
    for kind in kinds
}
"""Bytes of a value by its kind in a header table; what is not here says its own length in four bytes."""


class Outgoing(NamedTuple):
    """One message ready to be sent."""

    exchange: str
    routing_key: str
    message_id: str
    timestamp_s: int
    headers: Headers
    body: bytes
    is_persistent: bool = True


class Malformed(ValueError):
    """What came is no CloudEvent of ours; says which attribute."""


def headers_of(envelope: Envelope, published_ms: int) -> Headers:
    """Everything but the data. Raises ValueError for what cannot travel."""
    if envelope.occurred_at.tzinfo is None:
        raise ValueError("occurred_at has no time zone")
    headers: Headers = [
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_id", envelope.id),
        ("cloudEvents_source", envelope.source),
        ("cloudEvents_type", envelope.type),
        ("cloudEvents_subject", envelope.key),
        ("cloudEvents_time", envelope.occurred_at.isoformat()),
        ("cloudEvents_dataschema", f"{SCHEMA}{envelope.type}:{envelope.schema_version}"),
        (PUBLISHED_MS, published_ms),
    ]
    if envelope.sequence is not None:
        headers.append(("cloudEvents_sequence", str(envelope.sequence)))
    if envelope.correlation_id is not None:
        headers.append(("cloudEvents_correlationid", envelope.correlation_id))
    if envelope.causation_id is not None:
        headers.append(("cloudEvents_causationid", envelope.causation_id))
    if envelope.headers:
        headers.extend(envelope.headers)
        names = [name for name, _ in envelope.headers]
        if names != sorted(names):
            # The broker sorts header tables by name.
            headers.append((_ORDER, json.dumps(names)))
    return headers


def envelope_of(headers: Mapping[str, object], body: bytes, topic: str) -> Envelope:
    """Raises Malformed, naming the attribute that is not as it must be."""
    try:
        if headers["cloudEvents_specversion"] != "1.0":
            raise Malformed(f"specversion {headers['cloudEvents_specversion']!r} is not 1.0")
        sequence = headers.get("cloudEvents_sequence")
        correlation, causation = headers.get("cloudEvents_correlationid"), headers.get("cloudEvents_causationid")
        schema = headers.get("cloudEvents_dataschema")
        occurred_at = datetime.fromisoformat(headers["cloudEvents_time"])  # type: ignore[arg-type]
        if occurred_at.tzinfo is not UTC:
            occurred_at = _in_utc(occurred_at)
        # With the six that are always there: how many headers are not the publisher's own.
        attributes = 6 + (sequence is not None) + (correlation is not None) + (causation is not None)
        attributes += (schema is not None) + (PUBLISHED_MS in headers)
        envelope = Envelope(
            headers["cloudEvents_id"],  # type: ignore[arg-type]
            topic,
            headers["cloudEvents_type"],  # type: ignore[arg-type]
            headers["cloudEvents_source"],  # type: ignore[arg-type]
            headers["cloudEvents_subject"],  # type: ignore[arg-type]
            None if sequence is None else int(sequence),  # type: ignore[call-overload]
            occurred_at,
            body,
            1 if schema is None else schema_version_of(str(schema)),
            correlation,  # type: ignore[arg-type]
            causation,  # type: ignore[arg-type]
            () if len(headers) == attributes else foreign_headers(headers),
        )
    except KeyError as missing:
        raise Malformed(f"header {missing.args[0]} is not there") from missing
    except (ValueError, TypeError, OverflowError, RecursionError) as wrong:
        raise Malformed(f"a CloudEvents header cannot be read: {wrong}") from wrong
    optional = "" if correlation is None else correlation, "" if causation is None else causation
    for value in (envelope.id, envelope.type, envelope.source, envelope.key, *optional):
        if type(value) is not str:
            raise Malformed(f"a CloudEvents header is not text: {value!r:.100}")
    return envelope


def _in_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise Malformed("cloudEvents_time has no time zone")
    return instant.astimezone(UTC)


def foreign_headers(headers: Mapping[str, object]) -> tuple[tuple[str, bytes], ...]:
    """What the publisher added as `Envelope.headers`: neither CloudEvents' nor the broker's nor ours.

    A stream hands bytes that happen to be UTF-8 back as text, so text is taken too.
    """
    found = {
        name: value if type(value) is bytes else str(value).encode()
        for name, value in headers.items()
        if type(value) in (bytes, str) and name not in _OURS and not name.startswith((PREFIX, _FAILURE, *_BROKERS))
    }
    order = headers.get(_ORDER)
    if isinstance(order, str):
        return tuple((name, found[name]) for name in json.loads(order) if name in found)
    return tuple(found.items())


def published_ms(headers: Mapping[str, object]) -> int | None:
    """None where it is not there, or where another writer put something else there."""
    value = headers.get(PUBLISHED_MS)
    return value if type(value) is int else None


def wire_headers(headers: Mapping[str, object]) -> tuple[tuple[str, bytes], ...]:
    """All that came, but for the headers that `failure_headers` put on a letter."""
    return tuple((name, as_bytes(value)) for name, value in headers.items() if not name.startswith(_FAILURE))


def as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def failure_headers(failure: Failure, group: str, topic: str) -> Headers:
    return [
        (_FAILURE + "reason", failure.reason),
        (_FAILURE + "attempts", failure.attempts),
        (_FAILURE + "first_failed_at", failure.first_failed_at.isoformat()),
        (_FAILURE + "last_failed_at", failure.last_failed_at.isoformat()),
        (FAILED_GROUP, group),
        (ORIGIN, topic),
    ]


def failure_of(headers: Mapping[str, object]) -> Failure | None:
    """Why a letter was given up; what the broker's own net caught carries `x-death` instead of our headers."""
    try:
        if _FAILURE + "reason" in headers:
            return Failure(
                str(headers[_FAILURE + "reason"]),
                int(str(headers[_FAILURE + "attempts"])),
                datetime.fromisoformat(str(headers[_FAILURE + "first_failed_at"])),
                datetime.fromisoformat(str(headers[_FAILURE + "last_failed_at"])),
            )
        deaths = headers.get("x-death")
        if isinstance(deaths, list) and deaths:
            at = deaths[0].get("time") or datetime.fromtimestamp(0, UTC)
            return Failure(f"given up by the broker: {deaths[0].get('reason')}", int(deaths[0].get("count", 1)), at, at)
    except (KeyError, ValueError, AttributeError):
        return None
    return None


def encode_table(headers: Sequence[tuple[str, HeaderValue]]) -> bytes:
    """An AMQP field table with its length. Raises ValueError for a name over 255 bytes."""
    pieces: list[bytes] = []
    add = pieces.append
    for name, value in headers:
        add(_NAMES.get(name) or _short(name))
        if type(value) is str:
            encoded = value.encode()
            add(b"S" + _LONG.pack(len(encoded)))
            add(encoded)
        elif type(value) is bytes:
            add(b"x" + _LONG.pack(len(value)))
            add(value)
        else:
            add(b"l" + _DOUBLE.pack(value))
    table = b"".join(pieces)
    return _LONG.pack(len(table)) + table


def decode_table(buffer: bytes, offset: int) -> tuple[dict[str, object], int]:
    """Text, bytes and 64-bit numbers are read here, other kinds by pika; what it cannot read stays the bytes it was."""
    end = offset + 4 + _LONG.unpack_from(buffer, offset)[0]
    at = offset + 4
    table: dict[str, object] = {}
    while at < end:
        name_end = at + 1 + buffer[at]
        raw_name = buffer[at + 1 : name_end]
        name = _TEXTS.get(raw_name)
        if name is None:
            # Names too are anybody's bytes; a letter carries them as they came.
            name = raw_name.decode("utf-8", "surrogateescape")
        kind = buffer[name_end]
        if kind == 83 or kind == 120:  # S, x
            value_at = name_end + 5
            at = value_at + _LONG.unpack_from(buffer, name_end + 1)[0]
            value = buffer[value_at:at]
            table[name] = value if kind == 120 else _text(value)
        elif kind == 108:  # l
            table[name] = _DOUBLE.unpack_from(buffer, name_end + 1)[0]
            at = name_end + 9
        else:
            size = _SIZES.get(kind)
            at = name_end + 1 + (4 + _LONG.unpack_from(buffer, name_end + 1)[0] if size is None else size)
            try:
                table[name] = pika_tables.decode_value(buffer, name_end)[0]
            except (ValueError, OverflowError, OSError, RecursionError):
                # Anybody may write a timestamp of the year 60,000 (milliseconds taken for seconds).
                table[name] = buffer[name_end + 1 : at]
    return table, end


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _short(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    if len(encoded) > 255:
        raise ValueError(f"a header's name is {len(encoded)} bytes long, AMQP takes 255: {text[:40]}...")
    return bytes([len(encoded)]) + encoded


_KNOWN = [
    *(PREFIX + name for name in ("specversion", "id", "source", "type", "subject", "time", "dataschema", "sequence")),
    *(PREFIX + name for name in ("correlationid", "causationid")),
    PUBLISHED_MS,
    "x-stream-offset",
    "x-delivery-count",
]
_NAMES = {name: _short(name) for name in _KNOWN}
_TEXTS = {name.encode(): name for name in _KNOWN}
