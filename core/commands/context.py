"""What every command needs from outside: database, event sink, probe, ids and time; and how its events are wrapped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine
from uuid_utils import uuid7

from core.domain.events import EVENT_TYPES, Raised, to_json
from core.inbox.handlers import EventSink
from core.journey import NoProbe, Probe, Step
from core.messaging.envelope import Envelope
from core.storage.shop import ShopTables


def new_uuid7() -> str:
    return str(uuid7())


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Context:
    engine: Engine
    shop: ShopTables
    sink: EventSink
    probe: Probe = field(default_factory=NoProbe)
    """For a sink that does not reach `committed` itself (`OutboxSink` does when it is given a probe)."""
    new_id: Callable[[], str] = new_uuid7
    """UUIDv7 in text, 36 characters."""
    now: Callable[[], datetime] = utc_now
    """Aware, UTC."""

    def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        self.sink.write(connection, envelopes)

    def committed(self, envelopes: Sequence[Envelope]) -> None:
        """To be called after the commit, before the answer."""
        self.probe.reach(Step.COMMITTED, [envelope.id for envelope in envelopes])
        self.sink.after_commit(envelopes)


def envelope_of(
    raised: Raised, event_id: str, occurred_at: datetime, correlation_id: str | None, causation_id: str | None = None
) -> Envelope:
    """The event ready to travel, by the one table of event types."""
    name = type(raised.event).__name__
    kind = EVENT_TYPES[name]
    return Envelope(
        id=event_id,
        topic=kind.topic,
        type=name,
        source=f"/shop/{kind.aggregate_type}",
        key=raised.key,
        sequence=raised.sequence,
        occurred_at=occurred_at,
        data=to_json(raised.event),
        schema_version=kind.schema_version,
        correlation_id=correlation_id,
        causation_id=causation_id,
    )
