"""Stages, series, recovery and the limit of a run, on histories small enough to work out by hand."""

from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.facts import load
from analysis.timing.measures import Measures, measure
from tests.histories.writing import BATCH, MS, Run, clean_run

START = 1_790_000_000_000_000_000
S = 1_000_000_000


def measured(run: Run, folder: Path) -> Measures:
    with load(run.write(folder)) as facts:
        return measure(facts)


def one_order(intended_ns: int = 0) -> Run:
    """One event whose every stage is known: 10, 20, 30, 40, 50 ms; the load lasts 10 s from START."""
    at = START + intended_ns
    group = "g"
    lines: list[dict[str, Any]] = [
        {"t_ns": START - S, "step": "opened", "role": "all", "pid": 1, "format": 1},
        {"t_ns": START, "step": "phase", "phase": "load"},
        {"t_ns": at + 5 * MS, "step": "requested", "ids": ["k"], "intended_ns": [at]},
        {"t_ns": at + 10 * MS, "step": "committed", "ids": ["e"]},
        {"t_ns": at + 11 * MS, "step": "attempted", "ids": ["e"]},
        {"t_ns": at + 30 * MS, "step": "confirmed", "ids": ["e"], "outcomes": ["confirmed"]},
        {"t_ns": at + 60 * MS, "step": "delivered", "group": group, "ids": ["e"]},
        {"t_ns": at + 100 * MS, "step": "applied", "group": group, "ids": ["e"], "outcomes": ["applied"]},
        {"t_ns": at + 150 * MS, "step": "acked", "group": group, "ids": ["e"]},
        {"t_ns": START + 10 * S, "step": "phase", "phase": "heal"},
        {"t_ns": START + 11 * S, "step": "phase", "phase": "check", "complete": True},
    ]
    ledger: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("requests", "pending", "inbox", "effects", "failed_events")
    }
    ledger["events"] = [
        {"event_id": "e", "topic": "t", "event_type": "T", "aggregate_type": "a", "aggregate_id": "1", "sequence": 1,
         "correlation_id": "k"}
    ]  # fmt: skip
    ledger["subscriptions"] = [{"group": group, "event_type": "T"}]
    run = clean_run(orders=1).run | {"history_files": ["all-1.ndjson"], "faults": []}
    return Run(run, {"all-1.ndjson": lines}, ledger)


def test_each_stage_is_the_time_between_its_two_steps_from_the_intended_time(tmp_path: Path) -> None:
    found = measured(one_order(), tmp_path).latency_ms
    assert {stage: times["p50"] for stage, times in found.items()} == pytest.approx(
        {
            "request_to_commit": 10,
            "commit_to_confirm": 20,
            "confirm_to_receive": 30,
            "receive_to_apply": 40,
            "apply_to_ack": 50,
            "commit_to_apply": 90,
            "request_to_apply": 100,
        },
        rel=0.002,
    )


@pytest.mark.parametrize(("intended_ns", "counted"), [(-1, False), (0, True), (10 * S - 1, True), (10 * S, False)])
def test_only_what_was_intended_inside_the_load_phase_counts(intended_ns: int, counted: bool, tmp_path: Path) -> None:
    assert bool(measured(one_order(intended_ns), tmp_path).latency_ms) is counted


def test_a_message_received_before_its_confirm_took_no_time_there(tmp_path: Path) -> None:
    run = one_order()
    run.lines("delivered")[0]["t_ns"] = START + 20 * MS
    assert measured(run, tmp_path).latency_ms["confirm_to_receive"]["max"] < 0.002


def test_percentiles_keep_three_digits_over_many_samples(tmp_path: Path) -> None:
    run = one_order()
    run.history["all-1.ndjson"] = [line for line in run.history["all-1.ndjson"] if "ids" not in line]
    for n in range(1, 1001):
        run.history["all-1.ndjson"] += [
            {"t_ns": START, "step": "committed", "ids": [f"e-{n}"]},
            {"t_ns": START + n * MS, "step": "confirmed", "ids": [f"e-{n}"], "outcomes": ["confirmed"]},
        ]
    found = measured(run, tmp_path).latency_ms["commit_to_confirm"]
    assert found == pytest.approx(
        {"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000, "count": 1000}, rel=0.002
    )


def test_rates_count_what_happened_inside_the_load_phase(tmp_path: Path) -> None:
    found = measured(clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0), tmp_path)
    assert found.measured_s == 8.0
    assert found.throughput_per_s == pytest.approx({"acknowledged": 40, "confirmed": 80, "applied": 120}, rel=0.05)
    assert found.saturated == "none"


@pytest.mark.parametrize(
    ("step", "waiting", "backlog_s"),
    # Two events an order, 40 orders a second; a group receives one of them or both.
    [("outbox", 120, 1.5), ("outbox", 200, 2.5), ("lag", 60, 1.5), ("lag", 100, 2.5)],
)
def test_work_that_waits_is_counted_at_the_rate_of_events_and_not_of_orders(
    step: str, waiting: int, backlog_s: float, tmp_path: Path
) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    for line in run.lines(step):
        line["depth_messages" if step == "outbox" else "lag_messages"] = waiting
    found = measured(run, tmp_path)
    assert found.backlog_s == pytest.approx(backlog_s, rel=0.05)
    assert (found.saturated == "none") == (backlog_s < 2)


@pytest.mark.parametrize("step", ["outbox", "lag"])
def test_what_was_worked_off_while_the_driver_waited_for_its_last_answers_still_waited_when_the_load_ended(
    step: str, tmp_path: Path
) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    ends = [line for line in run.lines("phase") if line["phase"] in ("heal", "drain", "check")]
    late_ns = ends[0]["t_ns"] + 2 * S
    for line in ends:
        line["t_ns"] += 3 * S
    waiting = "depth_messages" if step == "outbox" else "lag_messages"
    for line in run.lines(step):
        line[waiting] = 240
    run.history["parent-6.ndjson"] += [line | {"t_ns": late_ns, waiting: 0} for line in run.lines(step)[-2:]]
    found = measured(run, tmp_path)
    assert found.backlog_s is not None
    assert found.backlog_s > 2
    assert found.saturated != "none"


def test_what_a_part_used_is_of_the_messages_between_its_samples(tmp_path: Path) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    whole = measured(run, tmp_path / "a").resources["broker"]
    middle_ns = START + 6 * S
    for name, lines in run.history.items():
        run.history[name] = [line for line in lines if line["step"] != "sample" or line["t_ns"] < middle_ns]
    half = measured(run, tmp_path / "b").resources["broker"]
    for name in ("cpu_s_per_million", "disk_bytes_per_million", "network_bytes_per_million"):
        assert half[name] == pytest.approx(whole[name], rel=0.02)


def test_recovery_counts_only_work_begun_after_the_fault(tmp_path: Path) -> None:
    run = one_order()
    lines = run.history["all-1.ndjson"]
    # Struck after the attempt: the old confirm at +30 ms and effect at +100 ms show nothing.
    lines.append({"t_ns": START + 20 * MS, "step": "fault", "fault": "sigkill", "action": "inject", "target": "broker"})
    run.lines("delivered")[0]["t_ns"] = START + 15 * MS
    assert measured(run, tmp_path / "a").recovery_s == {"sigkill": None}
    lines += [
        {"t_ns": START + 1 * S, "step": "attempted", "ids": ["f"]},
        {"t_ns": START + 2 * S, "step": "confirmed", "ids": ["f"], "outcomes": ["confirmed"]},
        {"t_ns": START + 2 * S, "step": "delivered", "group": "g", "ids": ["f"]},
        {"t_ns": START + 3 * S, "step": "applied", "group": "g", "ids": ["f"], "outcomes": ["applied"]},
    ]
    assert measured(run, tmp_path / "b").recovery_s == {"sigkill": 2.98}


def test_seconds_before_the_load_are_negative_and_not_folded_into_the_first(tmp_path: Path) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    series = measured(run, tmp_path).series
    assert series["t_s"][:3] == [-2.0, -1.0, 0.0]
    assert sum(value or 0 for value in series["acknowledged_per_s"]) == 400
    assert max(value or 0 for value in series["acknowledged_per_s"]) < 60


def test_what_was_acked_each_second_counts_every_copy_and_repeat(tmp_path: Path) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    first = run.lines("acked")[0]
    first["ids"] = first["ids"] * 2
    series = measured(run, tmp_path).series
    assert sum(value or 0 for value in series["acked_per_s"]) == 400 * 3 + BATCH * 2


def slipping(part: str, cores: float) -> Run:
    """A tenth of the arrivals was not sent, and `part` used `cores` cores of two."""
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    times = [START + n * S for n in range(2, 9)]
    run.history["parent-6.ndjson"] += [
        {"t_ns": START + 3 * S, "step": "skipped", "count": 40, "intended_ns": [START + 3 * S] * 40},
        *({"t_ns": t, "step": "sample", "part": part, "cpu_s": n * cores, "rss_bytes": 1, "disk_bytes": 0,
           "network_bytes": 0} for n, t in enumerate(times)),
    ]  # fmt: skip
    run.history["parent-6.ndjson"] = [
        line for line in run.history["parent-6.ndjson"] if line["step"] != "sample" or (line["part"] == part
        and line["rss_bytes"] == 1)
    ]  # fmt: skip
    return run


@pytest.mark.parametrize(
    ("part", "cores", "limit"),
    [("relay", 0.97, "relay"), ("relay", 0.5, None), ("broker", 1.9, "whole machine"), ("broker", 1.0, None)],
)
def test_the_limit_is_named_only_when_a_part_was_busy(
    part: str, cores: float, limit: str | None, tmp_path: Path
) -> None:
    found = measured(slipping(part, cores), tmp_path)
    assert found.slip_ratio == pytest.approx(40 / 360, rel=0.05)
    assert found.saturated == limit


@pytest.mark.parametrize(
    ("in_flight_s", "relay_cores", "relays", "limit"),
    [(6.9, 0.2, 1, "broker"), (6.0, 0.1, 1, None), (6.9, 0.6, 1, None), (6.9, 0.2, 2, None), (6.9, 0.97, 1, "relay")],
)
def test_the_broker_is_the_limit_when_relays_wait_for_it_and_compute_little(
    in_flight_s: float, relay_cores: float, relays: int, limit: str | None, tmp_path: Path
) -> None:
    run = slipping("relay", relay_cores)
    run.run["roles"] = {"relays": relays}
    for name, lines in run.history.items():
        run.history[name] = [line for line in lines if line["step"] not in ("attempted", "confirmed")]
    run.history["relay-3.ndjson"] += [
        {"t_ns": START + 3 * S, "step": "attempted", "ids": ["e"]},
        {"t_ns": START + 3 * S + int(in_flight_s * S), "step": "confirmed", "ids": ["e"], "outcomes": ["confirmed"]},
        {"t_ns": START + 60 * S, "step": "attempted", "ids": ["f"]},
        {"t_ns": START + 90 * S, "step": "confirmed", "ids": ["f"], "outcomes": ["confirmed"]},
    ]
    assert measured(run, tmp_path).saturated == limit


def test_network_bytes_that_the_kernel_did_not_tell_are_absent_and_not_nought(tmp_path: Path) -> None:
    run = clean_run(orders=400, rate_per_s=40, warm_up_s=2.0, load_s=8.0)
    assert measured(run, tmp_path / "a").resources["broker"]["network_bytes_per_million"] > 0
    for line in run.lines("sample"):
        del line["network_bytes"]
    assert "network_bytes_per_million" not in measured(run, tmp_path / "b").resources["broker"]
    assert measured(run, tmp_path / "b").resources["broker"]["disk_bytes_per_million"] > 0
