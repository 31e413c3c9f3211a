"""How long after a fault's true effect messages were confirmed and applied again."""

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts
from analysis.timing.window import Band, Window


def recovery(facts: Facts, window: Window, bands: list[Band]) -> dict[str, float | None]:
    """Fault -> seconds until both were seen again, of work begun after the fault; None: never.

    Only a confirm whose attempt, and an effect whose delivery, began after the fault counts: what was already under
    way shows nothing.
    """
    return {band.fault: _again(facts, window.from_ns + round(band.from_s * 1e9)) for band in bands}


def _again(facts: Facts, at_ns: int) -> float | None:
    confirmed = facts.one(
        f"""SELECT min(c.t_ns) FROM seen c JOIN (
            SELECT id, min(t_ns) AS t_ns FROM seen WHERE step = 'attempted' AND t_ns >= {at_ns} GROUP BY id
        ) a ON a.id = c.id AND c.t_ns >= a.t_ns WHERE c.step = 'confirmed' AND c.outcome = 'confirmed'"""
    )
    applied = facts.one(
        f"""SELECT min(x.t_ns) FROM seen x JOIN (
            SELECT g, id, min(t_ns) AS t_ns FROM seen WHERE step = 'delivered' AND t_ns >= {at_ns} GROUP BY g, id
        ) d ON d.id = x.id AND d.g = x.g AND x.t_ns >= d.t_ns
        WHERE x.step = 'applied' AND x.outcome = 'applied' AND x.g <> '{DEAD_LETTER_GROUP}'"""
    )
    if confirmed is None or applied is None:
        return None
    return round((int(max(confirmed, applied)) - at_ns) / 1e9, 3)
