"""A run at broker level is judged by what driver and receiver saw: each planted anomaly is found, none invented."""

from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.checkers.verdict import ANOMALIES, Judgement, judge_folder
from analysis.verdict import compute_verdict
from tests.histories.driven import PLANTS, clean_driven_run
from tests.histories.writing import Run

COUNTED = sorted(ANOMALIES | {"unknown"})


def judged(run: Run, folder: Path) -> Judgement:
    return judge_folder(run.write(folder))


def found_in(judgement: Judgement) -> dict[str, int]:
    return {name: judgement.counts[name] for name in COUNTED if judgement.counts.get(name)}


@pytest.mark.parametrize("name", PLANTS)
def test_each_planted_anomaly_gives_exactly_that_finding(name: str, tmp_path: Path) -> None:
    plant, counts, verdict = PLANTS[name]
    run = clean_driven_run()
    plant(run)
    judgement = judged(run, tmp_path)
    assert (found_in(judgement), str(judgement.word)) == (counts, verdict), judgement.reasons


ALONE = sorted(name for name, (_, counts, _) in PLANTS.items() if counts)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(ALONE), unique=True, min_size=2), seed=st.integers(1, 5))
def test_anomalies_planted_together_are_each_counted_once(
    names: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = deepcopy(clean_driven_run(seed=seed))
    expected: dict[str, int] = {}
    for name in names:
        PLANTS[name][0](run)
        for count, number in PLANTS[name][1].items():
            expected[count] = expected.get(count, 0) + number
    assert found_in(judged(run, tmp_path_factory.mktemp("run"))) == expected


def test_a_clean_run_accounts_for_every_message_without_a_ledger(tmp_path: Path) -> None:
    judgement = judged(clean_driven_run(), tmp_path)
    assert not (tmp_path / "ledger").exists() or not list((tmp_path / "ledger").iterdir())
    assert {name: count for name, count in judgement.counts.items() if count} == {
        "attempted": 400, "acknowledged": 400, "committed": 400, "delivered": 400, "applied": 400,
    }  # fmt: skip
    assert list(judgement.groups) == ["receiver"]


def test_what_ended_unknown_and_arrived_is_recovered_and_its_repetition_is_no_disorder(tmp_path: Path) -> None:
    judgement = judged(clean_driven_run(fault_at=20), tmp_path)
    assert found_in(judgement) == {"recovered": 10, "duplicated_on_wire": 10}
    assert judgement.word == "valid"


def test_a_message_that_comes_again_later_is_repeated_and_not_out_of_order(tmp_path: Path) -> None:
    run = clean_driven_run()
    first, last = run.lines("delivered")[0], run.lines("delivered")[-1]
    run.history["receiver-2.ndjson"].append(last | {"t_ns": last["t_ns"] + 1, "ids": first["ids"][::-1]})
    assert found_in(judged(run, tmp_path)) == {"duplicated_on_wire": 10}


def test_a_message_that_was_acked_and_never_delivered_was_not_received(tmp_path: Path) -> None:
    run = clean_driven_run()
    run.lines("delivered")[3]["ids"].pop(4)
    assert found_in(judged(run, tmp_path)) == {"lost": 1}


def test_what_was_attempted_and_never_answered_and_yet_arrives_is_recovered(tmp_path: Path) -> None:
    run = clean_driven_run()
    run.history["driver-1.ndjson"].remove(run.lines("confirmed")[3])
    assert found_in(judged(run, tmp_path)) == {"unknown": 10, "recovered": 10}


def test_what_the_driver_was_asked_for_and_never_sent_is_a_phantom_where_it_arrives(tmp_path: Path) -> None:
    run = clean_driven_run()
    for step in ("attempted", "confirmed"):
        run.history["driver-1.ndjson"].remove(run.lines(step)[3])
    assert found_in(judged(run, tmp_path)) == {"unknown": 10, "phantom": 10}


def test_what_the_broker_refused_was_not_committed(tmp_path: Path) -> None:
    run = clean_driven_run()
    PLANTS["refuse a message"][0](run)
    counts = judged(run, tmp_path).counts
    assert [counts[name] for name in ("attempted", "acknowledged", "committed", "applied")] == [400, 399, 399, 399]


def test_a_message_that_nobody_received_is_lost_also_where_the_receiver_saw_nothing_at_all(tmp_path: Path) -> None:
    run = clean_driven_run(messages=20)
    lines = run.history["receiver-2.ndjson"]
    run.history["receiver-2.ndjson"] = [line for line in lines if line["step"] in ("opened", "closed")]
    assert found_in(judged(run, tmp_path)) == {"lost": 20}


def test_the_life_of_a_lost_message_says_that_the_broker_confirmed_it(tmp_path: Path) -> None:
    run = clean_driven_run()
    PLANTS["lose a message"][0](run)
    judgement = judged(run, tmp_path)
    [finding] = next(anomaly for anomaly in judgement.anomalies if anomaly.name == "lost").first
    told = judgement.lives[finding.id]
    assert finding.group == "receiver"
    assert [moment.step for moment in told] == ["attempted", "requested", "confirmed", "confirmed by the broker"]
    assert {moment.source for moment in told} == {"driver-1", "history"}


def test_stages_count_from_the_intended_time_and_none_of_the_shop_is_invented(tmp_path: Path) -> None:
    fields = compute_verdict(clean_driven_run().write(tmp_path)).fields
    p50 = {stage: found["p50"] for stage, found in fields["latency_ms"].items()}
    assert p50 == pytest.approx({"confirm_to_receive": 1, "request_to_confirm": 2, "request_to_receive": 3}, rel=0.01)
    assert {found["count"] for found in fields["latency_ms"].values()} == {400}
    assert fields["throughput_per_s"].keys() == {"confirmed", "received"}
    assert fields["throughput_per_s"]["confirmed"] == pytest.approx(2_000, rel=0.05)
    assert fields["saturated"] == "none"


def test_recovery_is_until_a_message_sent_after_the_fault_was_confirmed_and_received(tmp_path: Path) -> None:
    fields = compute_verdict(clean_driven_run(fault_at=20).write(tmp_path)).fields
    # The fault is 1 ms before the batch; its first delivery is 3 ms after it was sent.
    assert fields["recovery_s"] == {"sigkill": pytest.approx(0.004, abs=0.0005)}


def hot(run: Run, part: str, cores: float) -> None:
    """That part used so many cores."""
    lines = [line for line in run.lines("sample") if line["part"] == part]
    for line in lines:
        line["cpu_s"] = cores * (line["t_ns"] - lines[0]["t_ns"]) / 1e9


def late(run: Run) -> None:
    """The last arrivals were handed to the broker three seconds after their time."""
    for line in run.history["driver-1.ndjson"][-6:]:
        if line["step"] in ("attempted", "confirmed"):
            line["t_ns"] += 3_000_000_000


def skip_some(run: Run) -> None:
    at = run.lines("requested")[10]["t_ns"]
    run.history["driver-1.ndjson"].append({"t_ns": at, "step": "skipped", "count": 8, "intended_ns": [at] * 8})


def behind(run: Run) -> None:
    """The receiver ended the load with three seconds of messages unacked."""
    for line in run.lines("lag"):
        line["lag_messages"] = 6_000


@pytest.mark.parametrize("slipped", [late, skip_some, behind])
@pytest.mark.parametrize(
    ("part", "cores", "limit"),
    [
        ("driver", 0.9, "driver"),
        ("receiver", 0.95, "receiver"),
        ("broker", 1.5, "whole machine"),
        ("broker", 0.9, None),
    ],
)
def test_a_schedule_that_was_not_kept_names_the_part_that_was_saturated(
    slipped: object, part: str, cores: float, limit: str | None, tmp_path: Path
) -> None:
    run = clean_driven_run()
    hot(run, part, cores)
    assert callable(slipped)
    slipped(run)
    assert compute_verdict(run.write(tmp_path)).fields["saturated"] == limit


@pytest.mark.parametrize(("cores", "limit"), [(0.2, "broker"), (0.6, None)])
def test_the_broker_is_the_limit_where_the_driver_waits_for_it_and_computes_little(
    cores: float, limit: str | None, tmp_path: Path
) -> None:
    run = clean_driven_run(slow=2.4)
    skip_some(run)
    hot(run, "driver", cores)
    assert compute_verdict(run.write(tmp_path)).fields["saturated"] == limit
