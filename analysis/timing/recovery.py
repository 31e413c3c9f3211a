"""How long after a fault's true effect messages were confirmed and applied again."""

from typing import Any

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts
from analysis.timing.window import Band, Window


def recovery(facts: Facts, window: Window, bands: list[Band]) -> dict[str, float | None]:
    """Fault -> seconds until both were seen again, of work begun after the fault; None: never.

    Only a confirm whose attempt, and an effect whose delivery, began after the fault counts: what was already under
    way shows nothing. At broker level being received again is enough: there are no effects.
    """
    return {band.fault: _again(facts, window.from_ns + round(band.from_s * 1e9)) for band in bands}


def _again(facts: Facts, at_ns: int) -> float | None:
    confirmed = facts.one(
        f"""SELECT min(c.t_ns) FROM seen c JOIN (
            SELECT id, min(t_ns) AS t_ns FROM seen WHERE step = 'attempted' AND t_ns >= {at_ns} GROUP BY id
        ) a ON a.id = c.id AND c.t_ns >= a.t_ns WHERE c.step = 'confirmed' AND c.outcome = 'confirmed'"""
    )
    if facts.at_broker:
        return _since(at_ns, confirmed, _received_again(facts, at_ns))
    applied = facts.one(
        f"""SELECT min(x.t_ns) FROM seen x JOIN (
            SELECT g, id, min(t_ns) AS t_ns FROM seen WHERE step = 'delivered' AND t_ns >= {at_ns} GROUP BY g, id
        ) d ON d.id = x.id AND d.g = x.g AND x.t_ns >= d.t_ns
        WHERE x.step = 'applied' AND x.outcome = 'applied' AND x.g <> '{DEAD_LETTER_GROUP}'"""
    )
    return _since(at_ns, confirmed, applied)


def _received_again(facts: Facts, at_ns: int) -> Any:
    """When a message was delivered that had been attempted only after the fault."""
    return facts.one(
        f"""SELECT min(d.t_ns) FROM seen d JOIN (
            SELECT id, min(t_ns) AS t_ns FROM seen WHERE step = 'attempted' GROUP BY id HAVING min(t_ns) >= {at_ns}
        ) a ON a.id = d.id WHERE d.step = 'delivered'"""
    )


def _since(at_ns: int, confirmed: Any, ended: Any) -> float | None:
    if confirmed is None or ended is None:
        return None
    return round((int(max(confirmed, ended)) - at_ns) / 1e9, 3)
