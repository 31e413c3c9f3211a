"""The ladder tells each step's runs by what was set; a lesson is supported or refuted only by figures that show it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from analysis.claims import answered
from analysis.comparison import run_folders
from analysis.findings import Result
from analysis.ladder import STEPS, Lesson, Rung, lessons, rungs
from analysis.rendering.report import render
from history.reader import RunFile
from tests.histories.comparing import Made, one, write
from tests.histories.writing import Run, cut_the_drain, double_effect, drop_effect, miss_the_fault

BY_NAME = {step.name: step for step in STEPS}
GUARANTEE, BOUNDARY, CONSUMER, STEPWISE = (
    "Guarantee before speed",
    "The transaction's boundary decides",
    "The consumer matters more",
    "Improve step by step",
)


def made(
    step: str, broker: str = "kafka", busiest_per_s: float = 100.0, damage: Callable[[Run], None] | None = None
) -> Made:
    run = one(broker, "ladder", BY_NAME[step].sets, damage=damage)
    run.verdict["series"]["acked_per_s"] = [1.0, busiest_per_s, None, 3.0]
    return run


def result(run: Made) -> Result:
    return Result("run", RunFile.model_validate(run.run), run.verdict)


def every_step(broker: str) -> list[Made]:
    return [
        made("direct", broker, 80.0, drop_effect),
        made("outbox", broker, 100.0, double_effect),
        made("idempotence", broker, 90.0),
        made("batch", broker, 900.0),
        made("concurrency", broker, 1_350.0),
    ]


def rung(step: str, lost: int = 0, duplicated: int = 0, busiest_per_s: float | None = 400.0) -> Rung:
    return Rung(BY_NAME[step], "kafka", 1, lost, duplicated, 40.0, busiest_per_s, 12.5)


def ladder(*instead: Rung) -> list[Rung]:
    """As the lessons have it, with some steps replaced."""
    found = {
        "direct": rung("direct", 12, 300, 390.0),
        "outbox": rung("outbox", 0, 310, 400.0),
        "idempotence": rung("idempotence", 0, 0, 380.0),
        "batch": rung("batch", 0, 0, 1_900.0),
        "concurrency": rung("concurrency", 0, 0, 2_850.0),
    }
    return list({**found, **{each.step.name: each for each in instead}}.values())


def test_a_quicker_step_that_broke_another_promise_does_not_bear_out_guarantee_before_speed() -> None:
    assert words(ladder())["Guarantee before speed"] == "supported"
    quick = rung("batch", 0, 0, 1_900.0)._replace(broken=1)
    assert words(ladder(quick))["Guarantee before speed"] == "refuted"
    assert "broke its contract: idempotence 0, batch 1" in why("Guarantee before speed", ladder(quick))


def test_of_a_step_on_a_machine_that_was_not_itself_only_the_harm_is_told() -> None:
    runs = [result(made) for made in every_step("kafka")]
    for run in runs:
        run.run.machine["work_per_s"] = 100.0 if run.variant else 60.0
    found = rungs(runs)
    assert [each.step.name for each in found if each.busiest_per_s is None] == ["batch"]
    assert [(each.applied_per_s, each.p99_ms) for each in found if each.step.name == "batch"] == [(None, None)]
    assert [(each.lost, each.duplicated) for each in found] == [(1, 0), (0, 1), (0, 0), (0, 0), (0, 0)]


def words(found: list[Rung]) -> dict[str, str]:
    return {lesson.text: lesson.word for lesson in lessons(found) if lesson.broker == "kafka"}


def why(text: str, found: list[Rung]) -> str:
    return next(lesson.why for lesson in lessons(found) if (lesson.text, lesson.broker) == (text, "kafka"))


def test_every_step_is_a_row_with_what_it_lost_doubled_and_took_in_the_ladders_order() -> None:
    found = rungs([result(run) for run in (*reversed(every_step("rabbitmq")), *every_step("kafka"))])
    found += rungs([result(made("batch", busiest_per_s=900.0)), result(made("batch", busiest_per_s=700.0))])
    assert [(r.step.name, r.broker, r.runs, r.lost, r.duplicated, r.busiest_per_s) for r in found] == [
        ("direct", "kafka", 1, 1, 0, 80.0),
        ("direct", "rabbitmq", 1, 1, 0, 80.0),
        ("outbox", "kafka", 1, 0, 1, 100.0),
        ("outbox", "rabbitmq", 1, 0, 1, 100.0),
        ("idempotence", "kafka", 1, 0, 0, 90.0),
        ("idempotence", "rabbitmq", 1, 0, 0, 90.0),
        ("batch", "kafka", 1, 0, 0, 900.0),
        ("batch", "rabbitmq", 1, 0, 0, 900.0),
        ("concurrency", "kafka", 1, 0, 0, 1_350.0),
        ("concurrency", "rabbitmq", 1, 0, 0, 1_350.0),
        ("batch", "kafka", 2, 0, 0, 800.0),
    ]
    run = made("batch")
    assert (found[6].applied_per_s, found[6].p99_ms) == (
        run.verdict["throughput_per_s"]["applied"],
        run.verdict["latency_ms"]["commit_to_apply"]["p99"],
    )


def test_each_step_changes_one_thing_of_the_step_before_it() -> None:
    defaults = {"publish_strategy": "outbox-leased", "consume_strategy": "inbox", "batch": "0", "roles.consumers": "1"}
    settings = [{**defaults, **dict(word.split("=") for word in step.sets)} for step in STEPS]
    changed = [[name for name in defaults if a[name] != b[name]] for a, b in pairwise(settings)]
    assert changed == [["publish_strategy"], ["consume_strategy"], ["batch"], ["roles.consumers"]]


def test_other_scenarios_other_settings_and_what_could_not_be_judged_are_no_step() -> None:
    elsewhere, set_otherwise, unknown = (result(made("batch")) for _ in range(3))
    elsewhere = replace(elsewhere, run=elsewhere.run.model_copy(update={"scenario": "steady"}))
    set_otherwise = replace(set_otherwise, run=set_otherwise.run.model_copy(update={"sets": ["partitions=1"]}))
    unknown.verdict["verdict"] = "unknown"
    assert rungs([elsewhere, set_otherwise, unknown]) == []


@pytest.mark.parametrize("doubt", [cut_the_drain, miss_the_fault])
def test_a_run_that_broke_its_contract_and_was_not_seen_to_the_end_is_no_step(doubt: Callable[[Run], None]) -> None:
    """What it did not lose was perhaps only not waited for, or never at risk."""
    run = made("direct", damage=double_effect)
    told = Run(run.run, {"parent-6.ndjson": []}, {})
    assert [each.duplicated for each in rungs([result(run)])] == [1]
    doubt(told)
    assert run.verdict["verdict"] == "invalid"
    assert rungs([result(Made(told.run, run.verdict))]) == []


def test_lessons_that_the_steps_bear_out_are_supported_by_the_figures_that_do_and_name_their_rows() -> None:
    found = ladder()
    assert words(found) == dict.fromkeys((GUARANTEE, BOUNDARY, CONSUMER, STEPWISE), "supported")
    assert lessons(found)[2] == Lesson(
        BOUNDARY,
        "kafka",
        "supported",
        "lost: direct 12, outbox 0, idempotence 0; doubled: outbox 310, idempotence 0",
        tuple(found[:3]),
    )
    assert why(GUARANTEE, found) == (
        "lost: idempotence 0, batch 0, concurrency 0; doubled: idempotence 0, batch 0, concurrency 0; "
        "broke its contract: idempotence 0, batch 0, concurrency 0; "
        "acked in the busiest second: idempotence 380, batch 1,900, concurrency 2,850"
    )
    assert why(CONSUMER, found) == (
        "acked in the busiest second: 1.03 times as many by the outbox, 7.5 times as many by batches or more consumers"
    )
    assert why(STEPWISE, found) == "better: outbox, idempotence, batch, concurrency"


@pytest.mark.parametrize(
    ("instead", "refuted"),
    [
        (rung("outbox", 1, 310), {BOUNDARY}),
        (rung("idempotence", 0, 2), {BOUNDARY, STEPWISE}),
        (rung("idempotence", 1, 0), {BOUNDARY, STEPWISE}),
        (rung("batch", 3, 0, 1_900.0), {GUARANTEE, STEPWISE}),
        (rung("concurrency", 0, 1, 2_850.0), {GUARANTEE, STEPWISE}),
        (rung("concurrency", 0, 0, 900.0), {STEPWISE}),
        (rung("outbox", 0, 310, 4_000.0), {CONSUMER}),
    ],
)
def test_a_lesson_is_refuted_by_the_step_that_shows_the_opposite(instead: Rung, refuted: set[str]) -> None:
    found = ladder(instead)
    if instead.step.name == "idempotence":
        # Harm that stays is no worse; harm that is new is.
        found[1] = rung("outbox")
    assert {text for text, word in words(found).items() if word == "refuted"} == refuted


def test_what_speed_loses_against_the_guarantee_refutes_that_the_guarantee_leaves_room_for_it() -> None:
    slower = ladder(rung("batch", busiest_per_s=300.0), rung("concurrency", busiest_per_s=200.0))
    assert words(slower)[GUARANTEE] == "refuted"
    assert why(STEPWISE, slower) == "better: outbox, idempotence; worse: batch, concurrency"


@pytest.mark.parametrize(
    ("instead", "undecided"),
    [
        # The fault was not felt: that the outbox lost nothing either shows nothing.
        ([rung("direct", 0, 300, 390.0)], {BOUNDARY, STEPWISE}),
        ([rung("direct", 12, 0, 390.0), rung("outbox")], {BOUNDARY, STEPWISE}),
        # No guarantee that speed could have kept or broken.
        ([rung("idempotence", 1, 0, 380.0), rung("outbox", 0, 310), rung("batch")], {GUARANTEE}),
        # Less harm is not none.
        ([rung("outbox", 3, 310)], {STEPWISE}),
        # So close that it may be chance.
        ([rung("batch"), rung("concurrency", busiest_per_s=390.0)], {GUARANTEE, CONSUMER, STEPWISE}),
        ([rung("concurrency", busiest_per_s=1_950.0)], {STEPWISE}),
        ([rung("idempotence", busiest_per_s=None)], {GUARANTEE, CONSUMER, STEPWISE}),
    ],
)  # fmt: skip
def test_a_lesson_that_the_figures_show_neither_way_is_undecided(instead: list[Rung], undecided: set[str]) -> None:
    assert {text for text, word in words(ladder(*instead)).items() if word == "undecided"} == undecided


def test_a_lesson_whose_steps_were_not_all_run_names_the_rows_that_it_needs() -> None:
    found = ladder()[:3]
    assert words(found) == {
        GUARANTEE: "not measured yet",
        BOUNDARY: "supported",
        CONSUMER: "not measured yet",
        STEPWISE: "not measured yet",
    }
    assert why(GUARANTEE, found) == "needs row S1.25 (batch), row S1.27 (concurrency)"
    assert {lesson.word for lesson in lessons(found) if lesson.broker == "rabbitmq"} == {"not measured yet"}
    assert lessons([]) == []


def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *runs: Made) -> Path:
    """The page of these runs, its charts left out."""
    monkeypatch.setattr("analysis.rendering.report._overall", lambda *_: [])
    monkeypatch.setattr("analysis.rendering.content.detailed", lambda _: {})
    comparison = write(folder, [(run, 1, "held") for run in runs])
    return render(run_folders(folder, comparison), folder / "report.html", comparison)


def test_the_page_has_the_five_steps_on_both_brokers_and_each_lesson_links_to_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(tmp_path, monkeypatch, *(run for broker in ("kafka", "rabbitmq") for run in every_step(broker)))
    markdown = page.with_suffix(".md").read_text().partition("## The ladder, step by step")[2].partition("\n## ")[0]
    assert [line.split(" | ")[:7] for line in markdown.splitlines() if line.startswith("| ")][1:] == [
        [f"| {step.name}", step.row, broker, "1", str(lost), str(doubled), "240"]
        for step, lost, doubled in zip(STEPS, (1, 0, 0, 0, 0), (0, 1, 0, 0, 0), strict=True)
        for broker in ("kafka", "rabbitmq")
    ]
    assert "- *Guarantee before speed*, on rabbitmq: **supported** (idempotence, batch, concurrency): lost:" in markdown
    html = page.read_text().partition('<section id="ladder">')[2].partition("</section>")[0]
    assert html.count('href="#ladder-') == 2 * (3 + 3 + 5 + 5)
    for step in STEPS:
        assert f'<tr id="ladder-rabbitmq-{step.name}"><th scope="row">{step.name}' in html
        assert f'<a href="#ladder-kafka-{step.name}">' in html
    told = orjson.loads(page.with_suffix(".json").read_bytes())["ladder"]
    assert [(step["step"], step["row"]) for step in told["steps"][::2]] == [(step.name, step.row) for step in STEPS]
    assert told["lessons"][0]["rungs"] == ["idempotence", "batch", "concurrency"]


def test_a_page_without_a_step_of_it_has_no_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(tmp_path, monkeypatch, one("kafka", "steady"))
    assert "ladder" not in page.with_suffix(".md").read_text().partition("| C1 |")[0]
    assert 'id="ladder' not in page.read_text()


def test_the_claim_on_guarantees_and_consumers_is_answered_by_the_figures_of_its_lessons() -> None:
    def said(*runs: Made) -> list[str]:
        return next(found.answers for found in answered([result(run) for run in runs]) if found.id == "C21")

    assert [line.partition(":")[0] for line in said(*every_step("rabbitmq"))] == [
        "Guarantee before speed, on rabbitmq",
        "The consumer matters more, on rabbitmq",
    ]
    assert said(made("batch")) == []
