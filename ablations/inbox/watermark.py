"""Not one of the seam's values but the other correct way, kept to be measured: the last sequence a (source, key).

Under keyed order an event at or below its key's last sequence is a repeat, one beyond the next shows a gap. Predicted:
no anomaly at any crash point; but an event that was given up and comes again after a later one of its key is taken for
a repeat, facts without a sequence have no place here, and nothing tells later what was applied or why not (so no run is
judged with it). Needs PostgreSQL 18 (`RETURNING old`).
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from core.inbox.claims import Claims, text_array
from core.inbox.handlers import Poison
from core.inbox.worker import Worker
from core.messaging.envelope import Envelope
from core.storage.tables import MessagingTables


class WatermarkClaims(Claims):
    def __init__(self, engine: Engine, tables: MessagingTables, group: str) -> None:
        super().__init__(tables, group)
        table = tables.inbox.fullname + "_watermark"
        self.gap_versions = 0
        """Versions that were skipped when a later one came; counted, not waited for."""
        self._advance = text(
            f"INSERT INTO {table} AS mark (consumer_group, source, key, sequence) SELECT :group, given.* "
            "FROM unnest(CAST(:sources AS text[]), CAST(:keys AS text[]), CAST(:sequences AS bigint[])) "
            "AS given (source, key, sequence) ORDER BY source, key "
            "ON CONFLICT (consumer_group, source, key) DO UPDATE "
            "SET sequence = greatest(mark.sequence, excluded.sequence) "
            "RETURNING source, key, coalesce(old.sequence, 0)"
        )
        with engine.begin() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('inbox_watermark'))")
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {table} (consumer_group text, source text, key text, "
                "sequence bigint NOT NULL, PRIMARY KEY (consumer_group, source, key)) WITH (fillfactor = 50)"
            )

    def claim(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Envelope]:
        highest: dict[tuple[str, str], int] = {}
        for envelope in envelopes:
            if envelope.sequence is None:
                raise Poison(envelope.id, f"{envelope.type} has no sequence to compare")
            place = envelope.source, envelope.key
            if envelope.sequence > highest.get(place, 0):
                highest[place] = envelope.sequence
        given = {
            "group": self.group,
            "sources": text_array(source for source, _ in highest),
            "keys": text_array(key for _, key in highest),
            "sequences": f"{{{','.join(map(str, highest.values()))}}}",
        }
        last = {(source, key): sequence for source, key, sequence in connection.execute(self._advance, given)}
        fresh = []
        for envelope in envelopes:
            place, sequence = (envelope.source, envelope.key), envelope.sequence or 0
            if sequence > last[place]:
                self.gap_versions += sequence - last[place] - 1
                last[place] = sequence
                fresh.append(envelope)
        return fresh


class Watermark(Worker):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.writing.claims = self.claims = WatermarkClaims(self.engine, self.tables, self.group)
