"""The life of one event: every line and ledger row that speaks of it, in order of time."""

from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

from analysis.checkers.facts import Facts

EVIDENCE_IDS = 20
"""Ids kept an anomaly: enough to see a pattern, few enough to read."""


class Moment(NamedTuple):
    """One line of a life. `at_ms` counts from its first line; None for what the ledger says, which has no time."""

    at_ms: float | None
    step: str
    group: str | None
    outcome: str | None
    source: str
    """The process that wrote it, or the ledger file."""


class Finding(NamedTuple):
    """The first pairs of (group, id) that show one anomaly."""

    group: str | None
    id: str


def first_ids(facts: Facts, sql: str) -> list[Finding]:
    """The lowest ids of an evidence query (columns g, id), in their own words."""
    rows = facts.rows(f"SELECT g, id FROM ({sql}) ORDER BY id, g LIMIT {EVIDENCE_IDS}")
    texts = _texts(facts, {row[1] for row in rows})
    return [Finding(group, texts[id_]) for group, id_ in rows]


def find_id(facts: Facts, text: str) -> UUID | None:
    """The inner id of an event id or an idempotency key as a person writes it; None where nothing speaks of it."""
    found = facts.one(
        """SELECT id FROM (SELECT as_id(?) AS id) WHERE id IN (SELECT id FROM event) OR id IN (SELECT id FROM seen)
        OR id IN (SELECT id FROM effect) OR id IN (SELECT id FROM inbox)""",
        text,
    )
    return found if isinstance(found, UUID) else None


def lives(facts: Facts, ids: Iterable[str]) -> dict[str, list[Moment]]:
    """Each id's moments, from the client's request (for its first event) to the last ack, then the ledger's rows."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    facts.database.execute(
        "CREATE OR REPLACE TEMP TABLE wanted AS SELECT t AS text, as_id(t) AS id FROM unnest(?) u(t)", [wanted]
    )
    # An idempotency key stands for the events that its request made, and an event for the request that made it.
    facts.database.execute(
        """CREATE OR REPLACE TEMP TABLE related AS SELECT text, id FROM wanted
        UNION SELECT w.text, e.correlation FROM wanted w JOIN event e ON e.id = w.id
        UNION SELECT w.text, e.id FROM wanted w JOIN event e ON e.correlation = w.id"""
    )
    found: dict[str, list[Moment]] = {text: [] for text in wanted}
    seen = facts.rows(
        """SELECT r.text, (s.t_ns - min(s.t_ns) OVER (PARTITION BY r.text)) / 1e6, s.step, s.g, s.outcome, s.process
        FROM seen s JOIN related r ON r.id = s.id
        WHERE s.id IN (SELECT id FROM related)
        ORDER BY s.t_ns, s.step, s.g, s.process"""
    )
    for text, at_ms, *rest in seen:
        found[text].append(Moment(round(at_ms, 3), *rest))
    for text, *row in facts.rows(_DRIVEN_ROWS if facts.at_broker else _LEDGER_ROWS):
        found[text].append(Moment(None, *row))
    return found


_LEDGER_ROWS = """
SELECT text, step, g, outcome, source FROM (
    SELECT r.text, 1 AS n, 'in the database' AS step, NULL AS g,
        type || ' of ' || aggregate_type || ' ' || aggregate_id || coalesce(' version ' || sequence, '') AS outcome,
        'ledger/events' AS source, 0 AS no
        FROM event e JOIN related r ON r.id = e.id
    UNION ALL SELECT r.text, 2, 'still in the outbox', NULL,
        CASE WHEN parked THEN 'parked' ELSE 'pending' END || coalesce(': ' || last_error, ''), 'ledger/pending', 0
        FROM pending p JOIN related r ON r.id = p.id
    UNION ALL SELECT r.text, 3, 'in the inbox', g, outcome || coalesce(': ' || reason, ''), 'ledger/inbox', 0
        FROM inbox i JOIN related r ON r.id = i.id
    UNION ALL SELECT r.text, 4, 'effect', g, effect, 'ledger/effects', applied_no
        FROM effect f JOIN related r ON r.id = f.id
    UNION ALL SELECT r.text, 5, 'dead letter', g, reason, 'ledger/failed_events', 0
        FROM failed f JOIN related r ON r.id = f.id
) ORDER BY n, g, no, outcome
"""


_DRIVEN_ROWS = """
SELECT r.text, CASE WHEN is_promised THEN 'confirmed by the broker' ELSE 'never confirmed' END, NULL,
    aggregate_type || ' ' || aggregate_id || ' version ' || sequence, 'history'
FROM event e JOIN related r ON r.id = e.id
"""
"""At broker level there is no ledger; that an event was promised follows from its outcomes."""


def _texts(facts: Facts, ids: set[Any]) -> dict[Any, str]:
    """Ids in the words of the files: a UUID is its own text, any other was kept beside its digest."""
    kept = facts.rows(
        """SELECT id, any_value(text) FROM (SELECT id, text FROM seen WHERE text IS NOT NULL UNION ALL
            SELECT id, text FROM event WHERE text IS NOT NULL AND try_cast(text AS UUID) IS NULL)
        WHERE id IN (SELECT unnest(?)) GROUP BY id""",
        list(ids),
    )
    return {id_: str(id_) for id_ in ids} | dict(kept)
