"""What was promised and is not there, what is there and was never promised, and what came more than once.

One account a group: every event it subscribes to, and every id it saw, with what became of it. Truth is the ledger;
the history tells what was delivered. Sets and words: `docs/measuring.md`.
"""

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts

CLIENT_COUNTS = ("attempted", "acknowledged", "unknown", "unstored")
"""At the API, by idempotency key; they belong to no group."""

GROUP_COUNTS = (
    "committed",
    "delivered",
    "applied",
    "ignored",
    "dead_lettered",
    "parked",
    "lost",
    "unseen",
    "phantom",
    "recovered",
    "duplicated_on_wire",
    "duplicated_effects",
    "undelivered_effect",
)


def account(facts: Facts, drained: bool) -> None:
    """Make the table `account`: g, id, state, and the flags below; one row a group and event it should or did see.

    `state` is where the event ended for the group: applied, ignored, dead_lettered, parked, unseen, lost, or null for
    one the group never asked for. Without a complete drain nothing is lost or parked yet: it is unseen.
    """
    facts.database.execute(
        f"""CREATE TABLE tally AS
        SELECT g, id, count(*) FILTER (what = 'due') > 0 AS due, count(*) FILTER (what = 'delivered') AS deliveries,
            count(*) FILTER (what = 'effect') > 0 AS effected,
            count(*) FILTER (what = 'applied') > 0 AS claimed,
            count(*) FILTER (what = 'ignored') > 0 AS ignored,
            count(*) FILTER (what = 'failed') > 0 AS failed
        FROM (
            SELECT s.g, e.id, 'due' AS what FROM event e JOIN subscription s ON s.type = e.type
                WHERE e.is_promised
            UNION ALL SELECT g, id, 'delivered' FROM seen WHERE step = 'delivered'
            UNION ALL SELECT g, id, 'effect' FROM effect
            UNION ALL SELECT g, id, outcome FROM inbox
            UNION ALL SELECT g, id, 'failed' FROM failed
        ) WHERE g <> '{DEAD_LETTER_GROUP}' GROUP BY g, id"""
    )
    # An event that the inbox calls applied but that has no effect has lost it: the effect is what counts.
    facts.database.execute(
        f"""CREATE TABLE account AS
        SELECT t.g, t.id, t.due, t.deliveries, t.effected, t.claimed, t.failed, e.id IS NOT NULL AS known,
            CASE WHEN t.effected THEN 'applied' WHEN t.claimed AND NOT t.due THEN 'applied'
                WHEN t.ignored THEN 'ignored'
                WHEN t.failed AND NOT t.claimed THEN 'dead_lettered' WHEN NOT t.due THEN NULL
                WHEN NOT {drained} THEN 'unseen' WHEN p.parked THEN 'parked' WHEN p.id IS NOT NULL THEN 'unseen'
                ELSE 'lost' END AS state,
            coalesce(u.uncertain, false) AS uncertain
        FROM tally t LEFT JOIN event e ON e.id = t.id LEFT JOIN (SELECT id, bool_or(parked) AS parked
            FROM pending GROUP BY id) p ON p.id = t.id
        LEFT JOIN uncertain_publish u ON u.id = t.id"""
    )
    facts.database.execute(
        f"""CREATE TABLE doubled AS SELECT g, id, effect, count(*) - 1 AS extra FROM effect
        WHERE g <> '{DEAD_LETTER_GROUP}' GROUP BY g, id, effect HAVING count(*) > 1"""
    )
    facts.database.execute("DROP TABLE tally")


def uncertain_publishes(facts: Facts) -> None:
    """Make `uncertain_publish`: ids with a publish that ended unknown, or whose answer was never written down."""
    facts.database.execute(
        """CREATE TABLE uncertain_publish AS SELECT id, true AS uncertain FROM seen
        WHERE step IN ('attempted', 'confirmed') GROUP BY id
        HAVING count(*) FILTER (outcome = 'unknown') > 0
            OR count(*) FILTER (step = 'attempted') > count(*) FILTER (step = 'confirmed')"""
    )


def client_counts(facts: Facts) -> dict[str, int]:
    """Attempted, acknowledged, unknown (no answer counts as unknown) and unstored, as numbers of idempotency keys.

    At broker level the broker's confirm is the answer, and what it stored is told by what is delivered alone.
    """
    answer, yes, no = ("confirmed",) * 2 + ("refused",) if facts.at_broker else ("answered", "acknowledged", "rejected")
    facts.database.execute(
        f"""CREATE TABLE client AS SELECT id, any_value(text) AS text,
            count(*) FILTER (outcome = '{yes}') > 0 AS acknowledged, count(*) FILTER (outcome = '{no}') > 0 AS rejected
        FROM seen WHERE step IN ('requested', '{answer}') GROUP BY id"""
    )
    facts.database.execute(
        f"""CREATE TABLE unstored AS SELECT id, text FROM client
        WHERE acknowledged AND NOT {facts.at_broker} AND id NOT IN (SELECT id FROM request)"""
    )
    counts = facts.rows(
        """SELECT count(*), count(*) FILTER (acknowledged), count(*) FILTER (NOT acknowledged AND NOT rejected),
            (SELECT count(*) FROM unstored) FROM client"""
    )[0]
    return dict(zip(CLIENT_COUNTS, counts, strict=True))


def group_counts(facts: Facts) -> dict[str, dict[str, int]]:
    """Every group of the run with its counts; a group that saw nothing still has its row."""
    rows = facts.rows(
        f"""SELECT g, count(*) FILTER (due), count(*) FILTER (deliveries > 0),
            count(*) FILTER (state = 'applied' AND known), count(*) FILTER (state = 'ignored'),
            count(*) FILTER (state = 'dead_lettered'), count(*) FILTER (state = 'parked'),
            count(*) FILTER (state = 'lost'), count(*) FILTER (state = 'unseen'),
            count(*) FILTER (NOT known AND (deliveries > 0 OR effected OR claimed)),
            count(*) FILTER (uncertain AND deliveries > 0),
            coalesce(sum(greatest(deliveries - 1, 0)), 0)::BIGINT,
            (SELECT coalesce(sum(extra), 0)::BIGINT FROM doubled d WHERE d.g = groups.g),
            count(*) FILTER ((effected OR claimed) AND deliveries = 0)
        FROM (SELECT g FROM subscription WHERE g <> '{DEAD_LETTER_GROUP}' UNION SELECT g FROM account) groups
        LEFT JOIN account USING (g) GROUP BY g ORDER BY g"""
    )
    return {row[0]: dict(zip(GROUP_COUNTS, row[1:], strict=True)) for row in rows}


EVIDENCE = {
    "lost": "SELECT g, id FROM account WHERE state = 'lost'",
    "unseen": "SELECT g, id FROM account WHERE state = 'unseen'",
    "parked": "SELECT g, id FROM account WHERE state = 'parked'",
    "dead_lettered": "SELECT g, id FROM account WHERE state = 'dead_lettered'",
    "phantom": "SELECT g, id FROM account WHERE NOT known AND (deliveries > 0 OR effected OR claimed)",
    "recovered": "SELECT g, id FROM account WHERE uncertain AND deliveries > 0",
    "duplicated_on_wire": "SELECT g, id FROM account WHERE deliveries > 1",
    "duplicated_effects": "SELECT g, id FROM doubled",
    "undelivered_effect": "SELECT g, id FROM account WHERE (effected OR claimed) AND deliveries = 0",
    "unstored": "SELECT NULL AS g, id FROM unstored",
}
"""Anomaly -> the (group, id) pairs that show it."""
