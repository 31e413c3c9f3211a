"""The time between two steps, each stage its own histogram, merged over processes; from the intended time.

An event counts if its request was intended inside the load phase (or, without a request, was committed in it): what was
asked for in the warm-up is left out, what finished late is kept. A group may receive a message before its publisher
hears the confirm: such a stage took no time and counts as 0.
"""

from typing import NamedTuple

from hdrh.histogram import HdrHistogram

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts
from analysis.timing.window import Window

DRIVEN_STAGES = ("request_to_confirm", "confirm_to_receive", "request_to_receive")
"""At broker level, where nothing is committed or applied."""

STAGES = (
    "request_to_commit",
    "commit_to_confirm",
    "confirm_to_receive",
    "receive_to_apply",
    "apply_to_ack",
    "commit_to_apply",
    "request_to_apply",
    "request_to_confirm",
    "request_to_receive",
)
"""The last two at broker level alone."""

LONGEST_US = 24 * 3600 * 1_000_000
CURVE = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99)


class Latency(NamedTuple):
    """Of one stage, in milliseconds, 3 significant digits."""

    percentiles: dict[str, float]
    """p50, p90, p99, p999, max and count."""
    curve: list[tuple[float, float]]
    """(percentile, ms), as far as there are samples beyond it."""


def journeys(facts: Facts, window: Window) -> None:
    """Make `journey` (id, intended, committed, confirmed) and `visit` (g, and received, applied, acked beside them).

    A request's intended time belongs to the first event it made; events that follow from it have none.
    """
    facts.database.execute(
        f"""CREATE TABLE journey AS
        WITH published AS (
            SELECT id, min(t_ns) FILTER (step = 'committed') AS committed,
                min(t_ns) FILTER (step = 'confirmed' AND outcome = 'confirmed') AS confirmed
            FROM seen WHERE step IN ('committed', 'confirmed') GROUP BY id
        ), asked AS (
            SELECT id, min(intended_ns) AS intended FROM seen WHERE step = 'requested' GROUP BY id
        ), first_event AS (
            SELECT e.correlation, arg_min(e.id, (p.committed, e.sequence, e.id)) AS id FROM event e
            JOIN published p ON p.id = e.id WHERE e.correlation IS NOT NULL GROUP BY e.correlation
        )
        SELECT p.id, a.intended, p.committed, p.confirmed FROM published p
        LEFT JOIN first_event f ON f.id = p.id LEFT JOIN asked a ON a.id = f.correlation
        WHERE coalesce(a.intended, p.committed, p.confirmed) >= {window.from_ns}
            AND coalesce(a.intended, p.committed, p.confirmed) < {window.to_ns}"""
    )
    facts.database.execute(
        f"""CREATE TABLE visit AS
        SELECT v.g, j.*, v.received, v.applied, v.acked FROM (
            SELECT g, id, min(t_ns) FILTER (step = 'delivered') AS received,
                min(t_ns) FILTER (step = 'applied' AND outcome = 'applied') AS applied,
                min(t_ns) FILTER (step = 'acked') AS acked
            FROM seen WHERE step IN ('delivered', 'applied', 'acked') AND g <> '{DEAD_LETTER_GROUP}' GROUP BY g, id
        ) v JOIN journey j ON j.id = v.id"""
    )


_SPANS = {
    "request_to_commit": ("journey", "intended", "committed"),
    "commit_to_confirm": ("journey", "committed", "confirmed"),
    "confirm_to_receive": ("visit", "confirmed", "received"),
    "receive_to_apply": ("visit", "received", "applied"),
    "apply_to_ack": ("visit", "applied", "acked"),
    "commit_to_apply": ("visit", "committed", "applied"),
    "request_to_apply": ("visit", "intended", "applied"),
    "request_to_confirm": ("journey", "intended", "confirmed"),
    "request_to_receive": ("visit", "intended", "received"),
}


def latencies(facts: Facts) -> dict[str, Latency]:
    """Every stage that has samples, in the order of `STAGES`."""
    found: dict[str, Latency] = {}
    for stage in STAGES:
        if (stage in DRIVEN_STAGES) is not facts.at_broker and stage != "confirm_to_receive":
            continue
        table, begin, end = _SPANS[stage]
        histogram = HdrHistogram(1, LONGEST_US, 3)
        # Counted in the database at 4 digits, so that millions of samples become thousands of values.
        for value_us, count in facts.rows(
            f"""SELECT us - us % greatest(1, pow(10, floor(log10(us)) - 3)::BIGINT) AS us, count(*) FROM (
                SELECT least(greatest({end} - {begin}, 0) // 1000 + 1, {LONGEST_US}) AS us
                FROM {table} WHERE {begin} IS NOT NULL AND {end} IS NOT NULL) GROUP BY 1 ORDER BY 1"""
        ):
            histogram.record_value(int(value_us), int(count))
        if histogram.get_total_count():
            found[stage] = _latency(histogram)
    return found


def _latency(histogram: HdrHistogram) -> Latency:
    count = int(histogram.get_total_count())

    def at(percentile: float) -> float:
        return round(float(histogram.get_value_at_percentile(percentile)) / 1000, 3)

    percentiles = {"p50": at(50), "p90": at(90), "p99": at(99), "p999": at(99.9), "max": at(100), "count": count}
    # A percentile with fewer than ten samples above it is an anecdote; the curve ends there and shows the maximum.
    curve = [(percentile, at(percentile)) for percentile in CURVE if (100 - percentile) / 100 * count >= 10]
    return Latency(percentiles, curve)
