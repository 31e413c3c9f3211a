"""Orders come in while the consumers stand still: the broker holds what waits, and whoever orders does not notice."""

from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest

from history.reader import history_paths, read_lines
from servers.lifecycle import Server
from tests.system.test_load_levels import run

RATE_PER_S, SLOW_AT_S, SLOW_S = 25, 3.0, 5.0
# With the usual prefetch all that waits would be in the consumers' hands, where RabbitMQ's ready messages do not count.
SETS = (
    f"load.rate_per_s={RATE_PER_S}",
    "load.warm_up_s=2",
    f"load.duration_s={SLOW_AT_S + SLOW_S + 1}",
    f"faults=consumer-pause@{SLOW_AT_S}+{SLOW_S}",
    "prefetch=15",
)


def lines_of(folder: Path, role: str) -> list[dict[str, Any]]:
    return [line for path in history_paths(folder) if path.name.startswith(f"{role}-") for line in read_lines(path)]


def request_ms(folder: Path, from_ns: int, to_ns: int) -> list[float]:
    """From the intended time to the answer, of all requests intended in that time."""
    intended, found = dict[str, int](), []
    for line in lines_of(folder, "driver"):
        if line["step"] == "requested":
            intended |= zip(line["ids"], line["intended_ns"], strict=True)
        elif line["step"] == "answered":
            starts = [intended[id_] for id_ in line["ids"]]
            found += [(line["t_ns"] - start) / 1e6 for start in starts if from_ns <= start < to_ns]
    return found


def backlogs(folder: Path) -> list[tuple[int, int]]:
    """(instant, messages that all groups owed then), each second."""
    found: list[tuple[int, int]] = []
    for line in lines_of(folder, "parent"):
        if line["step"] == "outbox":
            found.append((line["t_ns"], 0))
        elif line["step"] == "lag" and found:
            found[-1] = (found[-1][0], found[-1][1] + line["lag_messages"])
    return found


@pytest.mark.row("S0.36")
def test_orders_beyond_what_the_consumers_manage_wait_in_the_broker_and_are_answered_as_quickly_as_before(
    broker_server: Server, postgres_server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    _, verdict = run(folder, "slow-consumer", broker_server, postgres_server, *SETS)
    instants = {line["action"]: line["t_ns"] for line in lines_of(folder, "parent") if line["step"] == "fault"}
    slow_ns, quick_ns = instants["inject"], instants["heal"]

    calm = [owed for t_ns, owed in backlogs(folder) if t_ns < slow_ns][-1]
    slow = max(owed for t_ns, owed in backlogs(folder) if slow_ns <= t_ns < quick_ns + 1_000_000_000)
    before = request_ms(folder, slow_ns - int(SLOW_AT_S * 1e9), slow_ns)
    during = request_ms(folder, slow_ns, quick_ns)
    p99_before, p99_during = (quantiles(each, n=100)[98] for each in (before, during))
    print(f"backlog {calm} -> {slow} messages; ms: median {median(before):.1f} -> {median(during):.1f}, "
          f"p99 {p99_before:.1f} -> {p99_during:.1f}")  # fmt: skip
    assert slow - calm > 0.4 * RATE_PER_S * SLOW_S
    assert backlogs(folder)[-1][1] == 0
    assert verdict["counts"]["acknowledged"] > 0
    assert len(during) > 0.6 * RATE_PER_S * SLOW_S
    # A request that waited for those behind the broker would take seconds.
    assert median(during) < 1.25 * median(before) + 20
    assert p99_during < 2 * p99_before + 250
