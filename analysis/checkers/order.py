"""Whether each group applied an aggregate's events in the order in which they happened.

Order is the number drawn inside the effect's transaction, never a clock. It is promised within a topic: an aggregate
whose events travel on two topics may be seen in either order between them, which is counted apart.
"""

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts

ORDER_COUNTS = ("out_of_order", "late_by_redrive")

EVIDENCE = {
    "out_of_order": "SELECT g, id FROM late WHERE within_topic AND NOT redriven",
    "late_by_redrive": "SELECT g, id FROM late WHERE within_topic AND redriven",
}


def find_late(facts: Facts) -> None:
    """Make `late`: g, id, within_topic, redriven; effects whose sequence lies below one applied before.

    The first effect of an event counts: a second one is a duplicate, not a disorder. Redriven: the event was a dead
    letter of that group, so it was applied later on purpose.
    """
    facts.database.execute(
        f"""CREATE TABLE late AS
        WITH applied AS (
            SELECT f.g, f.id, f.no, e.topic, e.aggregate_type, e.aggregate_id, e.sequence
            FROM (SELECT g, id, min(applied_no) AS no FROM effect WHERE g <> '{DEAD_LETTER_GROUP}' GROUP BY g, id) f
            JOIN event e ON e.id = f.id WHERE e.sequence IS NOT NULL
        ), mixed AS (
            SELECT g, aggregate_type, aggregate_id FROM applied GROUP BY ALL
            HAVING count(*) > 1
        ), ranked AS (
            SELECT g, id, sequence,
                max(sequence) OVER (PARTITION BY g, aggregate_type, aggregate_id, topic ORDER BY no
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest_of_topic,
                max(sequence) OVER (PARTITION BY g, aggregate_type, aggregate_id ORDER BY no
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest
            FROM applied SEMI JOIN mixed USING (g, aggregate_type, aggregate_id)
        )
        SELECT g, id, sequence < coalesce(newest_of_topic, sequence) AS within_topic,
            (g, id) IN (SELECT (g, id) FROM failed) AS redriven
        FROM ranked WHERE sequence < newest"""
    )


def order_counts(facts: Facts) -> dict[str, dict[str, int]]:
    """Group -> out_of_order and late_by_redrive; groups without either are absent."""
    rows = facts.rows(
        """SELECT g, count(*) FILTER (NOT redriven), count(*) FILTER (redriven)
        FROM late WHERE within_topic GROUP BY g"""
    )
    return {group: dict(zip(ORDER_COUNTS, counts, strict=True)) for group, *counts in rows}


def reordered_across_topics(facts: Facts) -> int:
    """Events applied after a newer one of their aggregate that came on another topic: allowed, and worth knowing."""
    return int(facts.one("SELECT count(*) FROM late WHERE NOT within_topic"))
