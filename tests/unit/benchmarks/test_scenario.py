"""Scenario files: what is refused, with which words; and that the supplied ones are whole."""

from pathlib import Path

import pytest

from benchmarks.scenario import ScenarioError, changed, load_scenario, names

WHOLE = 'question = "Does it hold?"\n[load]\nrate_per_s = 10\nduration_s = 20\n'


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names())
def test_every_supplied_scenario_is_whole_and_asks_a_question(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.question.endswith("?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace("rate_per_s = 10", "rate_per_s = -1"), "mine.toml: load.rate_per_s = -1"),
        (WHOLE.replace("duration_s", "duration"), "mine.toml: load.duration"),
        ('forbids = ["losing"]\n' + WHOLE, "no anomaly 'losing'"),
        (WHOLE + '[[faults]]\nfault = "sigkill"\nat_s = 19\nfor_s = 2\n', "ends after the load"),
        ("question =", "mine.toml: Invalid value"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_of_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(write(tmp_path, text))
    assert said in str(refused.value)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ScenarioError, match="kill-mid-publish"):
        load_scenario("kill-mid-pubish")


def test_a_change_is_checked_like_the_file(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, WHOLE))
    assert changed(scenario, load={**scenario.load.model_dump(), "rate_per_s": 5}).load.rate_per_s == 5
    with pytest.raises(ScenarioError, match=r"load\.rate_per_s"):
        changed(scenario, load={**scenario.load.model_dump(), "rate_per_s": 0})
