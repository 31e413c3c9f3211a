"""Where a broker was not the limit, what the brokers themselves carried stands beside it: derived, not invented."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from analysis.broker_level import beside, carried
from analysis.findings import Result, cautions, compared
from analysis.rendering.report import render
from analysis.verdict import compute_verdict
from history.reader import RunFile
from tests.histories.driven import clean_driven_run
from tests.histories.writing import clean_run
from tests.unit.analysis.test_findings import result


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The verdicts of a run at broker level, without and with a fault."""
    runs = {"steady": clean_driven_run(messages=4_000), "kill": clean_driven_run(fault_at=20)}
    return {name: compute_verdict(run.write(tmp_path_factory.mktemp(name))).fields for name, run in runs.items()}


def driven(judged: dict[str, dict[str, Any]], broker: str, kind: str = "steady", **verdict: Any) -> Result:
    run = clean_driven_run(messages=10, broker=broker, fault_at=0 if kind == "kill" else None).run
    made = RunFile.model_validate(run | {"schedule": run["schedule"] | {"rate_per_s": 2_000.0}})
    return Result(f"{broker}/{made.scenario}", made, {**judged[kind], "measured_s": 60.0, **verdict})


def test_a_pair_limited_by_something_else_is_named_with_its_limits_and_the_brokers_stand_beside_it(
    judged: dict[str, dict[str, Any]],
) -> None:
    pair = [result("kafka", saturated="api"), result("rabbitmq", saturated="whole machine")]
    alone = [driven(judged, "kafka"), driven(judged, "rabbitmq", saturated="broker", slip_ratio=0.4)]
    assert beside([*pair, *alone]) == [
        "In steady the limit was api on kafka and whole machine on rabbitmq: that says nothing about how much the "
        "brokers carry.",
        "What they carried with nothing of the shop before or behind them stands below.",
    ]
    kafka, rabbitmq = carried([*pair, *alone])
    assert (kafka.case, kafka.broker, kafka.rate_per_s, kafka.limit) == (
        "broker-steady", "kafka", 2_000.0, "none (the schedule was met)",
    )  # fmt: skip
    assert kafka.confirmed_per_s == pytest.approx(2_000, rel=0.01)
    assert (kafka.confirm_p99_ms, kafka.receive_p99_ms) == (pytest.approx(2, rel=0.01), pytest.approx(3, rel=0.01))
    assert (rabbitmq.broker, rabbitmq.limit, kafka.slip_ratio, rabbitmq.slip_ratio) == ("rabbitmq", "broker", 0.0, 0.4)


def test_without_a_run_at_broker_level_the_report_says_what_makes_one(judged: dict[str, dict[str, Any]]) -> None:
    pair = [result("kafka"), result("rabbitmq", saturated="relay")]
    lacking = "No run at broker level without a fault shows it for kafka or rabbitmq; "
    assert beside(pair)[-1] == f"{lacking}`testbed run broker-steady --broker kafka` makes one."
    assert "for rabbitmq; `testbed run broker-steady --broker rabbitmq`" in beside([*pair, driven(judged, "kafka")])[-1]
    assert carried(pair) == []


def test_a_pair_that_the_brokers_limited_needs_nothing_beside_it() -> None:
    assert beside([result("kafka", saturated="broker"), result("rabbitmq", saturated="broker")]) == []


def test_one_broker_alone_is_no_pair() -> None:
    assert beside([result("kafka", saturated="api")]) == []


def test_a_run_with_a_fault_or_without_a_verdict_does_not_tell_what_a_broker_carries(
    judged: dict[str, dict[str, Any]],
) -> None:
    assert carried([driven(judged, "kafka", "kill"), driven(judged, "kafka", verdict="unknown")]) == []


def test_a_driver_that_did_not_keep_its_schedule_is_said_to_be_the_limit_and_compared_in_nothing(
    judged: dict[str, dict[str, Any]],
) -> None:
    slipped = driven(judged, "kafka", slip_ratio=0.05, saturated="driver")
    assert compared([slipped, driven(judged, "rabbitmq")]) == []
    said = " ".join(cautions([slipped, driven(judged, "rabbitmq")]))
    assert "5.0% of the arrivals were not sent" in said
    assert "the limit was the driver, so its rates do not compare brokers" in said


def test_runs_at_broker_level_that_kept_their_schedule_are_compared_in_their_own_stages(
    judged: dict[str, dict[str, Any]],
) -> None:
    rows = compared([driven(judged, "kafka"), driven(judged, "rabbitmq")])
    assert [row.what for row in rows] == [
        "half of the messages confirmed within", "99 % of the messages confirmed within",
        "99 % of the messages received within", "the broker's CPU a million messages",
    ]  # fmt: skip


def test_the_report_of_both_levels_shows_the_brokers_alone(tmp_path: Path) -> None:
    folders = []
    for broker in ("kafka", "rabbitmq"):
        made = clean_driven_run(messages=4_000, broker=broker)
        folders.append(made.write(tmp_path / broker / "broker-steady"))
        shop = clean_run(orders=20, broker=broker)
        folders.append(shop.write(tmp_path / broker / "steady"))
    page = render(folders, tmp_path / "report.html")
    for text in (page.read_text(), page.with_suffix(".md").read_text()):
        assert "What the brokers carry by themselves" in text
        assert "In steady the limit was none (the schedule was met) on kafka" in text
        assert "0.00 %" in text
    told = orjson.loads(page.with_suffix(".json").read_bytes())
    assert [row["broker"] for row in told["carried"]] == ["kafka", "rabbitmq"]
    assert "received" in {chart.stem.rpartition("-")[2] for chart in (tmp_path / "charts").glob("broker-steady-*")}
