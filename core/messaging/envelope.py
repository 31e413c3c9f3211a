"""An event ready to travel: CloudEvents 1.0 attributes by their names in this code, plus the topic it goes to.

Wire names (binary mode; Kafka prefix `ce_`, AMQP prefix `cloudEvents_`): id, source, type, subject (our `key`), time,
dataschema, and the extensions sequence, correlationid, causationid. The codec of each adapter maps them.
"""

from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

SCHEMA = "urn:dataschema:"
"""`dataschema` is this, the type, `:` and the schema's version."""


class Envelope(NamedTuple):
    """A NamedTuple and not a dataclass: built once a message on every hot path, four times cheaper to make."""

    id: str
    """UUIDv7 in text, 36 characters: the idempotency key of every effect."""
    topic: str
    type: str
    """Past tense, e.g. OrderCreated."""
    source: str
    """`/shop/<aggregate type>`; `sequence` counts within (source, key)."""
    key: str
    """The aggregate's id: the partition key; what fixes order."""
    sequence: int | None
    """The aggregate's version that this event made, from 1; None for facts that belong to no version."""
    occurred_at: datetime
    """Aware, UTC."""
    data: bytes
    """JSON text."""
    schema_version: int = 1
    correlation_id: str | None = None
    causation_id: str | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    """Further transport headers, outside CloudEvents; any bytes."""

    @property
    def aggregate_type(self) -> str:
        return self.source.rsplit("/", 1)[-1]


@lru_cache(maxsize=4_096)
def schema_version_of(dataschema: str) -> int:
    """1 where another writer names no version of ours."""
    version = dataschema.rpartition(":")[2]
    return int(version) if dataschema.startswith(SCHEMA) and version.isdecimal() else 1
