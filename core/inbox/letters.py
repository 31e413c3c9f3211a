"""A dead letter as a row of `failed_event`, and back: everything that is needed to handle it again is in the row."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core.messaging.envelope import Envelope
from core.messaging.ports import Delivery, Failure

INTEGER_MAX = 2**31 - 1
_ATTRIBUTES = ("topic", "type", "source", "key", "sequence", "schema_version", "correlation_id", "causation_id")


def row_of(delivery: Delivery, topic: str, group: str, failure: Failure) -> dict[str, Any]:
    """The columns of one letter that `group` gave up; `topic`: the one it came from, without the dead-letter suffix."""
    envelope = delivery.envelope
    row = {
        "topic": clean(topic)[:200],
        "consumer_group": clean(group)[:100],
        "reason": clean(failure.reason),
        "attempts": max(0, min(failure.attempts, INTEGER_MAX)),
        "first_failed_at": failure.first_failed_at,
        "last_failed_at": failure.last_failed_at,
    }
    if envelope is None:
        return row | {
            "event_id": digest(delivery.body, delivery.wire_headers),
            "event_type": None,
            "key": key_of(delivery.key),
            "headers": json.dumps({"wire": _packed(delivery.wire_headers)}),
            "body": delivery.body,
        }
    attributes = {name: getattr(envelope, name) for name in _ATTRIBUTES} | {"topic": topic}
    attributes["occurred_at"] = envelope.occurred_at.isoformat()
    return row | {
        "event_id": clean(envelope.id)[:100],
        "event_type": clean(envelope.type)[:100],
        "key": key_of(envelope.key),
        "headers": json.dumps({"id": envelope.id, "event": attributes, "headers": _packed(envelope.headers)}),
        "body": envelope.data,
    }


def envelope_of(row: Mapping[str, Any]) -> Envelope | None:
    """The envelope as it was; None for a malformed message, which never was one."""
    kept = json.loads(row["headers"])
    if "event" not in kept:
        return None
    attributes = kept["event"]
    attributes["occurred_at"] = datetime.fromisoformat(attributes["occurred_at"])
    headers = tuple((name, b64decode(value)) for name, value in kept["headers"])
    return Envelope(id=kept["id"], data=bytes(row["body"]), headers=headers, **attributes)


def key_of(key: str) -> str:
    """A message's key as the column holds it."""
    return clean(key)[:1_000]


def digest(body: bytes, wire_headers: tuple[tuple[str, bytes], ...]) -> str:
    """Stands in for the id of a malformed message: the same bytes are the same letter."""
    hashed = hashlib.sha256(body)
    for name, value in wire_headers:
        hashed.update(b"\0" + name.encode(errors="surrogateescape") + b"\0" + value)
    return "sha256:" + hashed.hexdigest()


def _packed(headers: tuple[tuple[str, bytes], ...]) -> list[tuple[str, str]]:
    return [(name, b64encode(value).decode()) for name, value in headers]


def clean(text: str) -> str:
    """PostgreSQL's text holds any character but NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
