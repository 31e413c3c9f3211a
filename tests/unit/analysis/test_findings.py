"""What the report says of its runs follows from them, and is not said where they do not bear it."""

from typing import Any

import pytest

from analysis.estimates import median_ratio
from analysis.findings import Result, answer, cautions
from history.reader import RunFile
from tests.histories.writing import clean_run


def result(broker: str, recovery_s: float = 2.0, name: str | None = None, **verdict: Any) -> Result:
    fields: dict[str, Any] = {
        "verdict": "valid", "reasons": [], "counts": {"committed": 5000}, "measured_s": 60.0, "slip_ratio": 0.0,
        "saturated": "none", "recovery_s": {"sigkill": recovery_s},
        "latency_ms": {"commit_to_apply": {"p50": 10.0, "count": 5000}},
    }  # fmt: skip
    return Result(name or broker, RunFile.model_validate(clean_run(orders=1, broker=broker).run), fields | verdict)


def test_two_valid_runs_are_both_said_to_have_kept_their_promises() -> None:
    text = answer([result("kafka"), result("rabbitmq")])
    assert text[0] == (
        "All 2 runs on kafka and rabbitmq kept every promise of the contract over 10,000 committed events."
    )


def test_a_broken_promise_comes_first_and_no_run_is_called_all() -> None:
    text = answer([result("kafka"), result("rabbitmq", verdict="invalid", reasons=["lost = 3 (g 3)"])])[0]
    assert text.startswith("Rabbitmq broke its contract (lost = 3 (g 3)); 1 run on kafka kept every promise")


def test_single_runs_claim_no_difference() -> None:
    text = answer([result("kafka", 12.0), result("rabbitmq", 5.0)])[1]
    assert "after 12 s on kafka and 5 s on rabbitmq, measured once: no difference is claimed." in text


def test_repeats_that_differ_carry_an_interval_and_repeats_that_overlap_show_no_difference() -> None:
    apart = [result("kafka", 12.0 + n) for n in range(5)] + [result("rabbitmq", 5.0 + n / 10) for n in range(5)]
    assert "kafka over rabbitmq: 2.69 (" in answer(apart)[1]
    assert "no difference" not in answer(apart)[1]
    same = [result(broker, 5.0 + n) for broker in ("kafka", "rabbitmq") for n in range(5)]
    assert "no difference shown" in answer(same)[1]


def test_runs_that_could_not_be_judged_are_compared_in_nothing() -> None:
    unknown = result("rabbitmq", verdict="unknown", reasons=["the drain was cut short"])
    assert len(answer([result("kafka"), unknown])) == 1
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
    assert cautions([result("kafka"), result("rabbitmq")]) == []


def test_one_broker_alone_compares_nothing() -> None:
    assert cautions([result("kafka")]) == ["steady ran on kafka only: it compares nothing."]


def test_an_interval_of_equal_samples_spans_one_and_too_few_samples_have_none() -> None:
    assert not median_ratio([1, 2, 3, 4], [1, 2, 3, 4]).shows_difference
    assert median_ratio([10, 11, 12], [1, 1.1, 1.2]).shows_difference
    with pytest.raises(ValueError, match="3 repeats"):
        median_ratio([1, 2], [1, 2, 3])
