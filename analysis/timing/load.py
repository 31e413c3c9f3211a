"""Whether the schedule was kept, which part was the limit if not, and what a million messages cost."""

from typing import Any, NamedTuple

from analysis.checkers.facts import Facts
from analysis.timing.window import Window

SLIP_ALLOWED_RATIO = 0.01
BUSY_RATIO = 0.85
"""Of one core for a single-threaded part, or of all cores for the machine, from which it counts as saturated."""
BACKLOG_ALLOWED_S = 2.0
WAITING_RATIO = 0.5
"""Of the time a publisher waits for the broker and does not compute, from which the broker counts as the limit."""
SINGLE_THREADED = frozenset({"api", "relay", "consumer", "receiver", "driver"})


class Use(NamedTuple):
    """Of one part inside the load phase."""

    cpu_s: float
    rss_bytes: int
    disk_bytes: int
    network_bytes: int | None
    """None: not told."""
    length_s: float


def uses(facts: Facts, window: Window) -> dict[str, Use]:
    """Part -> what it used between its first and last sample in the load phase; a counter that restarts is bridged."""
    rows = facts.rows(
        f"""SELECT part, sum(greatest(cpu, 0)), max(rss_bytes), sum(greatest(disk, 0))::BIGINT,
            sum(CASE WHEN network IS NOT NULL THEN greatest(network, 0) END)::BIGINT, (max(t_ns) - min(t_ns)) / 1e9
        FROM (SELECT part, t_ns, rss_bytes, cpu_s - lag(cpu_s) OVER w AS cpu,
                disk_bytes - lag(disk_bytes) OVER w AS disk,
                network_bytes - lag(network_bytes) OVER w AS network
            FROM said WHERE step = 'sample' AND t_ns >= {window.from_ns} AND t_ns < {window.to_ns}
            WINDOW w AS (PARTITION BY part ORDER BY t_ns)) GROUP BY part HAVING count(*) > 1 ORDER BY part"""
    )
    return {
        part: Use(float(cpu or 0), int(rss or 0), int(disk or 0), None if network is None else int(network), float(s))
        for part, cpu, rss, disk, network, s in rows
    }


def slip(facts: Facts, window: Window) -> float | None:
    """Share of the scheduled arrivals with an idempotency key that were not sent, 0 to 1; None without such."""
    sent, skipped = facts.rows(
        f"""SELECT (SELECT count(*) FROM seen WHERE step = 'requested'
                AND intended_ns >= {window.from_ns} AND intended_ns < {window.to_ns}),
            (SELECT coalesce(sum("count"), 0)::BIGINT FROM said WHERE step = 'skipped'
                AND t_ns >= {window.from_ns} AND t_ns < {window.to_ns})"""
    )[0]
    return None if sent + skipped == 0 else round(skipped / (sent + skipped), 5)


def backlog_s(facts: Facts, window: Window) -> float | None:
    """Work left when the load ended, in seconds of the rate it came at; None where it was not sampled.

    Of the outbox in seconds of commits, of the group that is furthest behind in seconds of what it receives: an order
    makes ten events, and each goes to several groups. At broker level in seconds of the planned rate.
    """
    if facts.at_broker:
        rate = facts.run.schedule.rate_per_s
        late_s, lag = _last_arrival_late_s(facts), _lag_at_the_end(facts, window)
        return None if late_s is None or lag is None or not rate else round(max(late_s, lag / rate), 3)
    window = Window(window.from_ns, _last_due_ns(facts, window))
    inside = f"t_ns >= {window.from_ns} AND t_ns < {window.to_ns}"
    depth, committed = facts.rows(
        f"""SELECT (SELECT arg_max(depth_messages, t_ns) FROM said WHERE step = 'outbox' AND {inside}),
            (SELECT count(*) FROM seen WHERE step = 'committed' AND {inside})"""
    )[0]
    if depth is None or not committed:
        return None
    behind = facts.one(
        f"""SELECT max(waiting / received) FROM (
            SELECT "group" AS g, sum(waiting) AS waiting FROM (
                SELECT "group", topic, arg_max(lag_messages, t_ns) AS waiting
                FROM said WHERE step = 'lag' AND {inside} GROUP BY "group", topic) GROUP BY "group")
        JOIN (SELECT g, count(*) AS received FROM seen WHERE step = 'delivered' AND {inside} GROUP BY g) USING (g)"""
    )
    return round(max(float(depth) / float(committed), float(behind or 0)) * window.length_s, 3)


def _last_due_ns(facts: Facts, window: Window) -> int:
    """When the load was to end: its phase ends with the driver, which waits for its last answers, and meanwhile part of
    the backlog is worked off."""
    return min(window.to_ns, window.from_ns + round((facts.run.schedule.load_s or window.length_s) * 1e9))


def _last_arrival_late_s(facts: Facts) -> float | None:
    """How long after its intended time the last arrival was handed to the broker; None where it never was."""
    late_ns = facts.one(
        """SELECT min(a.t_ns) - r.intended_ns FROM seen a JOIN (
            SELECT id, intended_ns FROM seen WHERE step = 'requested' ORDER BY intended_ns DESC LIMIT 1
        ) r ON r.id = a.id WHERE a.step = 'attempted' GROUP BY r.intended_ns"""
    )
    return None if late_ns is None else late_ns / 1e9


def _lag_at_the_end(facts: Facts, window: Window) -> int | None:
    """Messages that the receiver had not acked when the last arrival was due."""
    last_ns = _last_due_ns(facts, window)
    found = facts.one(f"SELECT arg_max(lag_messages, t_ns) FROM said WHERE step = 'lag' AND t_ns <= {last_ns}")
    return None if found is None else int(found)


def saturated(facts: Facts, window: Window, used: dict[str, Use]) -> str | None:
    """The part that was the limit; `none` when the schedule was met; None when it cannot be told."""
    slipped, waiting = slip(facts, window), backlog_s(facts, window)
    if slipped is None or waiting is None:
        return None
    if slipped <= SLIP_ALLOWED_RATIO and waiting <= BACKLOG_ALLOWED_S:
        return "none"
    cores = {part: use.cpu_s / use.length_s for part, use in used.items() if use.length_s > 0}
    machine: Any = facts.run.machine.get("cpus")
    busy = {part: used_cores for part, used_cores in cores.items() if part in SINGLE_THREADED}
    if machine and sum(cores.values()) >= BUSY_RATIO * float(machine):
        return "whole machine"
    hottest = max(busy, key=lambda part: busy[part], default=None)
    if hottest is not None and busy[hottest] >= BUSY_RATIO:
        return hottest
    return "broker" if _publishers_wait(facts, window, cores) else None


def _publishers_wait(facts: Facts, window: Window, cores: dict[str, float]) -> bool:
    """Whether publishers nearly always had a batch at the broker, and computed for little of that time."""
    in_flight_s = facts.one(
        f"""SELECT sum(greatest(0, least(answered_ns, {window.to_ns}) - greatest(t_ns, {window.from_ns}))) / 1e9 FROM (
            SELECT step, t_ns, lead(t_ns) OVER (PARTITION BY process ORDER BY t_ns, step) AS answered_ns
            FROM (SELECT DISTINCT process, step, t_ns FROM seen WHERE step IN ('attempted', 'confirmed'))
        ) WHERE step = 'attempted'"""
    )
    publishes = "relay" if "relay" in cores else "driver" if facts.at_broker else "api"
    processes = max(1, facts.run.roles.get("relays", 1)) if publishes == "relay" else 1
    in_flight = float(in_flight_s or 0) / window.length_s / processes
    return in_flight >= BUSY_RATIO and in_flight - cores.get(publishes, 0.0) / processes >= WAITING_RATIO


def per_million(facts: Facts, window: Window, used: dict[str, Use]) -> dict[str, dict[str, float]]:
    """Part -> CPU seconds, disk and network bytes a million confirmed messages, and the highest memory."""
    messages = facts.one(
        f"""SELECT count(*) FROM seen WHERE step = 'confirmed' AND outcome = 'confirmed'
        AND t_ns >= {window.from_ns} AND t_ns < {window.to_ns}"""
    )
    if not messages:
        return {}
    found = {}
    for part, use in used.items():
        # Of the messages as many as fall to the time between the samples, which is a second or two less than the load.
        millions = messages / 1e6 * (use.length_s / window.length_s if use.length_s else 1.0)
        found[part] = {
            "cpu_s_per_million": round(use.cpu_s / millions, 3),
            "rss_bytes": float(use.rss_bytes),
            "disk_bytes_per_million": round(use.disk_bytes / millions),
        }
        if use.network_bytes is not None:
            found[part]["network_bytes_per_million"] = round(use.network_bytes / millions)
    return found
