"""What the report says of its runs follows from them, and is not said where they do not bear it."""

from dataclasses import replace
from typing import Any

import pytest

from analysis.comparison import CellNote
from analysis.estimates import median_ratio
from analysis.findings import Result, answer, cautions, compared, figure
from history.reader import RunFile
from tests.histories.writing import clean_run


def result(
    broker: str, recovery_s: float | None = 2.0, name: str | None = None, run: dict[str, Any] | None = None,
    **verdict: Any,
) -> Result:  # fmt: skip
    fields: dict[str, Any] = {
        "verdict": "valid", "reasons": [], "counts": {"committed": 5000}, "measured_s": 60.0, "slip_ratio": 0.0,
        "saturated": "none", "recovery_s": {"sigkill": recovery_s},
        "latency_ms": {"commit_to_apply": {"p50": 10.0, "count": 5000}},
    }  # fmt: skip
    fields |= {"anomalies": [], "resources": {}}
    made = RunFile.model_validate(clean_run(orders=1, broker=broker).run | (run or {}))
    return Result(name or broker, made, fields | verdict)


def told(results: list[Result]) -> list[str]:
    return answer(results, compared(results))


def test_two_valid_runs_are_both_said_to_have_kept_their_promises() -> None:
    text = told([result("kafka"), result("rabbitmq")])
    assert text[0] == (
        "All 2 runs on kafka and rabbitmq kept every promise of the contract over 10,000 committed events."
    )


def test_a_broken_promise_comes_first_and_no_run_is_called_all() -> None:
    text = told([result("kafka"), result("rabbitmq", verdict="invalid", reasons=["lost = 3 (g 3)"])])[0]
    assert text.startswith("Rabbitmq broke its contract (lost = 3 (g 3)); 1 run on kafka kept every promise")


def test_single_runs_claim_no_difference() -> None:
    text = told([result("kafka", 12.0), result("rabbitmq", 5.0)])[1]
    assert text == (
        "In steady, after sigkill, until confirmed and applied again: 12 s on kafka and 5 s on rabbitmq; "
        "fewer than 3 repeats: no difference is claimed."
    )


def test_repeats_that_differ_carry_an_interval_and_repeats_that_overlap_show_no_difference() -> None:
    apart = [result("kafka", 12.0 + n) for n in range(5)] + [result("rabbitmq", 5.0 + n / 10) for n in range(5)]
    assert told(apart)[1:3] == [
        "Of 2 figures with an interval, kafka is lower in 0 and rabbitmq in 1; 1 show no difference.",
        "In steady, after sigkill, until confirmed and applied again: 14 s on kafka and 5.2 s on rabbitmq; kafka over "
        "rabbitmq: 2.69 (2.31 to 3.08, n = 5).",
    ]
    same = [result(broker, 5.0 + n) for broker in ("kafka", "rabbitmq") for n in range(5)]
    assert "2 show no difference" in told(same)[1]
    assert "no difference shown" in told(same)[2]
    assert {row.difference for row in compared(same)} == {"no difference shown"}


def test_three_repeats_a_side_are_said_to_differ_by_chance_one_time_in_ten() -> None:
    apart = [result("kafka", 12.0 + n) for n in range(3)] + [result("rabbitmq", 5.0 + n / 10) for n in range(3)]
    assert told(apart)[1] == (
        "Of 2 figures with an interval, kafka is lower in 0 and rabbitmq in 1; 1 show no difference. The interval of 2 "
        "of them is the range of three repeats: one in ten of such would show a difference by chance alone."
    )


def test_a_figure_says_how_many_runs_bear_it_where_some_dropped_out() -> None:
    kafka = [result("kafka", 12.0 + n, saturated="relay" if n > 2 else "none") for n in range(5)]
    rows = compared([*kafka, *(result("rabbitmq", 5.0 + n) for n in range(5))])
    assert rows[0].difference == "rabbitmq is lower, by 3 of 5 runs on kafka"
    text = told([*kafka, *(result("rabbitmq", 5.0 + n) for n in range(5))])
    assert any(said.endswith("n = 3), by 3 of 5 runs on kafka.") for said in text)


def test_a_value_of_nought_is_not_called_too_few_repeats() -> None:
    runs = [result(broker, 0.0 if broker == "kafka" else 1.0) for broker in ("kafka", "rabbitmq") for _ in range(5)]
    assert compared(runs)[0].difference == "a value of nought: no difference is claimed"


def test_a_run_that_broke_its_contract_is_compared_in_nothing() -> None:
    """What it lost is in no median of what arrived."""
    broken = result("kafka", verdict="invalid", reasons=["lost = 300"])
    assert compared([broken, result("rabbitmq")]) == []
    assert "kafka broke its contract, so nothing is compared of it." in cautions([broken, result("rabbitmq")])


def test_messages_of_the_driver_alone_are_no_committed_events() -> None:
    schedule = {"level": "broker", "rate_per_s": 50.0, "load_s": 60.0}
    text = told([result("kafka"), result("rabbitmq", run={"schedule": schedule})])
    assert text[0] == (
        "All 2 runs on kafka and rabbitmq kept every promise of the contract over 5,000 committed events and 5,000 "
        "messages of the driver alone."
    )


def test_of_an_overload_only_its_load_is_no_weakness() -> None:
    cell = CellNote(part="sweep", name="n", broker="kafka", repeat=1, folder="n", state="held", overload=True)
    slow = replace(result("kafka", saturated="relay", slip_ratio=0.3), cell=cell)
    assert not any("kafka" in said and "limit" in said for said in cautions([slow]))
    short = replace(result("kafka", measured_s=5.0), cell=cell)
    assert any("too short" in said for said in cautions([short]))
    unknown = result("kafka", verdict="unknown", reasons=["the checker itself failed"])
    assert not any("could not be judged" in said for said in cautions([replace(unknown, cell=cell)]))
    doubted = replace(unknown, cell=cell.model_copy(update={"state": "could not tell"}))
    assert any("could not be judged: the checker itself failed" in said for said in cautions([doubted]))


def test_runs_that_could_not_be_judged_are_compared_in_nothing() -> None:
    unknown = result("rabbitmq", verdict="unknown", reasons=["the drain was cut short"])
    assert told([result("kafka"), unknown])[1:] == ["No figure of these runs compares the brokers."]
    assert "rabbitmq could not be judged: the drain was cut short." in cautions([result("kafka"), unknown])


@pytest.mark.parametrize(
    ("weakness", "said"),
    [
        ({"measured_s": 5.0}, "too short"),
        ({"slip_ratio": 0.02}, "2.0% of the arrivals were not sent"),
        ({"saturated": "relay"}, "the limit was the relay"),
        ({"saturated": None}, "cannot be told"),
        ({"latency_ms": {}}, "0 latency samples"),
    ],
)
def test_each_weakness_of_a_run_is_said_at_the_top(weakness: dict[str, Any], said: str) -> None:
    pair = [result("kafka"), result("rabbitmq", **weakness)]
    assert [said in caution for caution in cautions(pair)] == [True]
    # Few samples make the far percentiles weak, not the middle.
    assert bool(compared(pair)) is (said == "0 latency samples")
    assert cautions([result("kafka"), result("rabbitmq")]) == []


def test_one_broker_alone_compares_nothing() -> None:
    assert cautions([result("kafka")]) == ["steady ran on kafka only: it compares nothing."]


def test_an_interval_of_equal_samples_spans_one_and_too_few_samples_have_none() -> None:
    assert not median_ratio([1, 2, 3, 4], [1, 2, 3, 4]).shows_difference
    assert median_ratio([10, 11, 12], [1, 1.1, 1.2]).shows_difference
    with pytest.raises(ValueError, match="3 repeats"):
        median_ratio([1, 2], [1, 2, 3])


def speeds(kafka: float, rabbitmq: float) -> list[Result]:
    """Three runs a broker; the last of RabbitMQ on a machine that did so much work a second."""
    machine = {"cpus": 2, "work_per_s": kafka}
    return [
        *(result("kafka", name=f"k/{n}", run={"machine": machine}) for n in range(3)),
        *(result("rabbitmq", name=f"r/{n}", run={"machine": machine}) for n in range(2)),
        result("rabbitmq", name="r/2", run={"machine": machine | {"work_per_s": rabbitmq}}),
    ]


def test_a_run_on_a_machine_that_was_a_sixth_slower_is_too_noisy_and_compared_in_nothing() -> None:
    assert cautions(speeds(100.0, 86.0)) == []
    (caution,) = cautions(speeds(100.0, 84.0))
    assert caution == "r/2 is too noisy: the machine did 16% less work a second before it than usual."
    assert all(row.estimate is not None for row in compared(speeds(100.0, 86.0)))
    assert all(row.estimate is None for row in compared(speeds(100.0, 84.0)))


def test_many_runs_of_one_weakness_are_summed_up() -> None:
    runs = [result(broker, name=f"{broker}/{n}", measured_s=5.0) for broker in ("kafka", "rabbitmq") for n in range(4)]
    assert cautions(runs) == ["8 runs are too short to conclude from: kafka/0, kafka/1 and 6 more."]
    assert told(runs)[-1] == "No figure of these runs compares the brokers."


def test_a_naive_variant_that_breaks_its_contract_is_not_the_shop_breaking_it() -> None:
    lost = [{"name": "lost", "count": 3, "forbidden": True, "first": []}]
    naive = result(
        "kafka", run={"strategies": {"publish": "direct-after-commit", "consume": "inbox"}}, verdict="invalid",
        reasons=["lost = 3 (g 3)"], anomalies=lost,
    )  # fmt: skip
    text = told([result("kafka"), naive])
    assert text[0] == "1 run on kafka kept every promise of the contract over 5,000 committed events."
    assert text[1] == "With publish=direct-after-commit the shop broke its contract in 1 of 1 run (lost)."
    assert not told([naive])[0].startswith("There is no run")


def test_a_naive_variant_of_which_no_run_could_be_judged_is_not_said_to_break_nothing() -> None:
    made = {"strategies": {"publish": "direct-after-commit", "consume": "inbox"}}
    unknown = result("kafka", run=made, verdict="unknown", reasons=["the drain was cut short"])
    text = told([result("kafka"), unknown])
    assert text[1] == "With publish=direct-after-commit nothing can be told: none of 1 run could be judged."
    assert "broke nothing" not in " ".join(text)


def test_a_recovery_that_never_came_is_said_and_not_left_out_of_a_median() -> None:
    runs = [result("kafka", None, name="kafka/1"), result("rabbitmq")]
    assert "In kafka/1 no message that was sent after sigkill was seen confirmed and applied." in told(runs)
    assert not [row for row in compared(runs) if "sigkill" in row.what]


def test_what_was_set_makes_a_case_of_its_own_but_its_length_does_not() -> None:
    base = result("kafka", run={"sets": ["load.duration_s=9", "load.warm_up_s=1"]})
    other = result("kafka", run={"sets": ["load.duration_s=9", "durability=fsynced"]})
    assert (base.case, other.case) == ("steady", "steady, durability=fsynced")
    assert [row.case for row in compared([base, result("rabbitmq")])] == ["steady"] * 2
    assert compared([other, result("rabbitmq")]) == []


def test_a_figure_has_three_digits_and_no_exponent_where_it_is_large() -> None:
    values = (0.01234, 7.0, 99.95, 999.4, 999.6, 1_000, 1_234_567.8)
    assert [figure(value) for value in values] == ["0.0123", "7", "100", "999", "1,000", "1,000", "1,234,568"]
