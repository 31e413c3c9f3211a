"""What happened each second: rates, latency, outbox and lag; seconds count from the beginning of the load phase."""

from typing import Any

from analysis.checkers.facts import DEAD_LETTER_GROUP, Facts
from analysis.timing.window import Window

Series = dict[str, list[float | None]]
"""`t_s` and equally long columns; None where nothing was seen in that second."""

RATES = {
    "acknowledged_per_s": "step = 'answered' AND outcome = 'acknowledged'",
    "confirmed_per_s": "step = 'confirmed' AND outcome = 'confirmed'",
    "applied_per_s": f"step = 'applied' AND outcome = 'applied' AND g <> '{DEAD_LETTER_GROUP}'",
}
DRIVEN_RATES = {
    "confirmed_per_s": RATES["confirmed_per_s"],
    "received_per_s": "step = 'delivered'",
}
"""At broker level."""
ACKED = {"acked_per_s": "step = 'acked'"}
"""Repeats too: what the groups were done with."""
COUNTED = "step IN ('answered', 'confirmed', 'applied', 'delivered', 'acked')"


def _rates(facts: Facts) -> dict[str, str]:
    return DRIVEN_RATES if facts.at_broker else RATES


def throughput(facts: Facts, window: Window) -> dict[str, float]:
    """Ids a second inside the load phase; applied counts every group's copy."""
    rates = _rates(facts)
    row = facts.rows(
        f"SELECT {_counts(rates)} FROM seen WHERE t_ns >= {window.from_ns} AND t_ns < {window.to_ns} AND {COUNTED}"
    )[0]
    return {
        name.removesuffix("_per_s"): round(count / window.length_s, 3) for name, count in zip(rates, row, strict=True)
    }


def over_time(facts: Facts, window: Window) -> Series:
    """One row a second from the first line to the last."""
    second = f"floor((t_ns - {window.from_ns}) / 1e9)::BIGINT"
    wanted = _rates(facts) | ACKED
    rates = _by_second(facts, f"SELECT {second}, {_counts(wanted)} FROM seen WHERE {COUNTED} GROUP BY 1")
    ended = "received" if facts.at_broker else "applied"
    # By the second in which it was asked for, so that a stall shows where it began.
    latency = _by_second(
        facts,
        f"""SELECT floor((coalesce(intended, committed) - {window.from_ns}) / 1e9)::BIGINT,
            quantile_disc(us, 0.5) / 1000, quantile_disc(us, 0.99) / 1000 FROM (
                SELECT intended, committed, greatest({ended} - coalesce(intended, committed), 0) // 1000 AS us
                FROM visit WHERE {ended} IS NOT NULL AND coalesce(intended, committed) IS NOT NULL) GROUP BY 1""",
    )
    outbox = _by_second(facts, f"SELECT {second}, max(depth_messages) FROM said WHERE step = 'outbox' GROUP BY 1")
    lag = _by_second(
        facts,
        f"""SELECT s, sum(lag_messages)::BIGINT, max(delay_s) FROM (
            SELECT {second} AS s, "group", topic, max(lag_messages) AS lag_messages, max(delay_s) AS delay_s
            FROM said WHERE step = 'lag' GROUP BY ALL) GROUP BY s""",
    )
    seconds = rates.keys() | outbox.keys() | lag.keys()
    if not seconds:
        return {}
    span = range(min(seconds), max(seconds) + 1)
    series: Series = {"t_s": [float(s) for s in span]}
    for n, name in enumerate(wanted):
        series[name] = [float(rates[s][n]) if s in rates else 0.0 for s in span]
    for names, found in (
        (("latency_p50_ms", "latency_p99_ms"), latency),
        (("outbox_messages",), outbox),
        (("lag_messages", "delay_s"), lag),
    ):
        for n, name in enumerate(names):
            series[name] = [_number(found[s][n]) if s in found else None for s in span]
    return series


def _counts(rates: dict[str, str]) -> str:
    return ", ".join(f"count(*) FILTER ({condition})" for condition in rates.values())


def _number(value: Any) -> float | None:
    return None if value is None else round(float(value), 3)


def _by_second(facts: Facts, sql: str) -> dict[int, tuple[Any, ...]]:
    return {int(second): tuple(rest) for second, *rest in facts.rows(sql) if second is not None}
