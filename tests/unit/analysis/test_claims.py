"""Claims, heat map and limits say what the runs hold, and nothing where no run bears it."""

from collections.abc import Callable

import pytest

from analysis.claims import CLAIMS, answered
from analysis.findings import Result
from analysis.heat import squares
from analysis.limits import limits
from history.reader import RunFile
from tests.histories.comparing import one
from tests.histories.writing import Run, double_effect, drop_effect


def run(
    broker: str, scenario: str, *sets: str, slow: float = 1.0, fault_at_s: float | None = None,
    damage: Callable[[Run], None] | None = None,
) -> Result:  # fmt: skip
    made = one(broker, scenario, sets, slow=slow, fault_at_s=fault_at_s, damage=damage)
    return Result(f"{broker}/{scenario}", RunFile.model_validate(made.run), made.verdict)


def said(claim: str, *results: Result) -> list[str]:
    return next(found.answers for found in answered(results) if found.id == claim)


def test_there_are_fifty_claims_each_once_and_in_order() -> None:
    assert [claim.id for claim in CLAIMS] == [f"C{n}" for n in range(1, 51)]
    assert all(claim.needs for claim in CLAIMS)


def test_a_claim_that_no_run_bears_on_is_not_answered() -> None:
    assert [found.id for found in answered([]) if found.answers] == []
    assert said("C4", run("kafka", "steady")) == []


def test_what_direct_publishing_loses_is_counted_beside_what_was_committed() -> None:
    naive = run("kafka", "kill-mid-publish", "publish_strategy=direct-after-commit", damage=drop_effect)
    assert said("C4", naive, run("kafka", "steady")) == [
        "kill-mid-publish, publish_strategy=direct-after-commit on kafka: lost 1, phantom 0 of 2,080 committed, "
        "3,120 copies for groups (1 run)"
    ]


def test_the_outbox_is_judged_by_default_runs_that_met_a_fault() -> None:
    naive = run("kafka", "relay-crash", "consume_strategy=none", fault_at_s=4.0, damage=double_effect)
    assert said("C5", run("kafka", "steady"), naive) == []
    assert said("C5", run("rabbitmq", "kill-mid-publish", fault_at_s=4.0), naive) == [
        "rabbitmq: lost 0, unseen 0, duplicated_on_wire 0, duplicated_effects 0 of 2,080 committed, "
        "3,120 copies for groups (1 run)"
    ]


def test_a_runs_latency_answers_only_if_the_run_bears_a_conclusion() -> None:
    steady = run("kafka", "steady", slow=2.0)
    (found,) = said("C2", steady)
    stages = steady.verdict["latency_ms"]
    requests, effects = stages["request_to_commit"], stages["request_to_apply"]
    assert requests["count"] < 1_000 <= effects["count"]
    # Of a few hundred requests fewer than ten are slower than their p99: no figure, an anecdote.
    assert found == (
        f"steady on kafka: request_to_commit p50 {requests['p50']:.3g} ms; "
        f"request_to_apply p50 {effects['p50']:.3g} ms, p99 {effects['p99']:.3g} ms (1 run)"
    )
    steady.verdict["saturated"] = "relay"
    assert said("C2", steady) == []


def test_a_run_that_could_not_be_judged_answers_nothing() -> None:
    unknown = run("kafka", "kill-mid-publish", fault_at_s=4.0)
    unknown.verdict["verdict"] = "unknown"
    assert [found.id for found in answered([unknown]) if found.answers] == []


def test_the_highest_rate_is_one_that_kept_its_schedule_and_the_limit_above_it_is_named() -> None:
    kept, over = run("kafka", "steady", "load.rate_per_s=200"), run("kafka", "steady", "load.rate_per_s=300")
    over.verdict["saturated"] = "relay"
    assert said("C22", kept, over) == [
        "kafka: 200 orders/s were kept up; 300/s was not kept (the limit: relay)"
    ]  # fmt: skip
    over.verdict.update({"verdict": "unknown", "saturated": None})
    assert said("C22", kept, over)[0].endswith("300/s was not kept (the limit: not known)")
    assert said("C22", kept) == []


def test_every_event_of_a_poisoned_run_has_an_end_or_the_sum_says_so() -> None:
    assert said("C38", run("kafka", "poison")) == ["kafka: 0 dead letters; 3,120 of 3,120 copies have an end"]
    assert said("C38", run("kafka", "poison", damage=drop_effect)) == [
        "kafka: 0 dead letters; 3,119 of 3,120 copies have an end"
    ]


def test_a_square_says_kept_only_if_no_run_broke_or_left_its_contract_open() -> None:
    results = [
        run("kafka", "relay-crash", "consume_strategy=none", damage=double_effect),
        run("kafka", "relay-crash"),
        run("rabbitmq", "relay-crash"),
        run("rabbitmq", "relay-crash", "durability=fsynced"),
    ]
    results[2].verdict["verdict"] = "unknown"
    assert [(s.strategy, s.broker, s.word, s.text) for s in squares(results)] == [
        ("default", "kafka", "kept", "kept"),
        ("default", "rabbitmq", "unknown", "unknown"),
        ("consume=none", "kafka", "broke", "duplicated effects 1"),
    ]


@pytest.mark.parametrize(
    ("result", "sentence", "is_said"),
    [
        (run("kafka", "steady"), "Nothing was broken on purpose", True),
        (run("kafka", "kill-mid-publish", fault_at_s=4.0), "Nothing was broken on purpose", False),
        (run("kafka", "kill-mid-publish", fault_at_s=4.0), "loss by power failure was not measured", True),
        (run("kafka", "steady"), "loss by power failure was not measured", False),
        (run("kafka", "steady"), "1 of 1 runs met their schedule", True),
        (run("kafka", "steady"), "1 of 1 cases were measured fewer than 3 times", True),
        (run("kafka", "steady"), "Each broker was one node", True),
    ],
)
def test_what_is_not_shown_follows_from_the_runs(result: Result, sentence: str, is_said: bool) -> None:
    assert any(sentence in line for line in limits([result])) is is_said


def test_external_services_are_not_said_to_share_the_machine() -> None:
    result = run("kafka", "steady")
    result.run.machine["provider"] = "external"
    assert not any("one node" in line for line in limits([result]))
    assert any("external" in line for line in limits([result]))
