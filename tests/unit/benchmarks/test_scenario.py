"""Scenario files: what is refused, with which words; and that the supplied ones are whole."""

from pathlib import Path

import pytest

from benchmarks.scenario import ScenarioError, changed, load_scenario, names, place

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
        (WHOLE.replace("rate_per_s = 10", "rate_per_s = -1"), "mine.toml:3: load.rate_per_s = -1"),
        (WHOLE.replace("duration_s = 20\n", ""), "mine.toml:2: load.duration_s: Field required"),
        (
            WHOLE + '[[faults]]\nfault = "sigkill"\nat_s = 1\n\n[[faults]]\nfault = "meteor"\nat_s = 2\n',
            "mine.toml:10: ",
        ),
        (WHOLE + '[[faults]]\nfault = "sigkill"\nat_s = 1\nfor = 3\n', "mine.toml:8: faults.0.for"),
        (WHOLE + "random_faults = 2\n", "mine.toml:5: load.random_faults"),
        ("random_faults = 2\n" + WHOLE + '[[faults]]\nfault = "sigkill"\nat_s = 1\n', "not both"),
        (WHOLE.replace("[load]", '[load]\nshape = "square"'), "mine.toml:3: load.shape = 'square'"),
        (WHOLE.replace("duration_s", "duration"), "mine.toml:4: load.duration"),
        ('forbids = ["losing"]\n' + WHOLE, "mine.toml:1: forbids = ['losing']: no anomaly 'losing'"),
        (WHOLE + '[[faults]]\nfault = "sigkill"\nat_s = 19\nfor_s = 2\n', "ends after the load"),
        ("question =", "mine.toml: Invalid value"),
        (WHOLE.replace("[load]", '[load]\nlevel = "wire"'), "mine.toml:3: load.level = 'wire'"),
        (
            WHOLE.replace("[load]", '[load]\nlevel = "broker"') + '[[faults]]\nfault = "relay-kill"\nat_s = 1\n',
            "relay-kill strikes the relay, which has no part in a run with load.level = broker",
        ),
        (
            WHOLE.replace("[load]", '[load]\nlevel = "outbox"') + '[[faults]]\nfault = "api-kill"\nat_s = 1\n',
            "api-kill strikes the api, which has no part in a run with load.level = outbox",
        ),
        (
            WHOLE.replace("[load]", '[load]\nlevel = "broker"').replace("= 10", "= 99000").replace("= 20", "= 600"),
            "20,000,000 at most",
        ),
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


def test_the_place_of_a_key_is_found_in_tables_and_behind_quotes(tmp_path: Path) -> None:
    mine = write(tmp_path, WHOLE + '[settings]\nbatch = 5\n"relay.claim" = "none"\nrelay.x = 1\n')
    assert place(mine, "settings", "batch") == "mine.toml:6"
    assert place(mine, "settings", "relay.claim") == "mine.toml:7"
    assert place(mine, "settings", "relay", "x") == "mine.toml:8"
    assert place(mine, "settings", "absent") == "mine.toml:5"
    assert place(mine, "absent") == "mine.toml:1"


def test_a_scenario_needs_what_its_faults_need(tmp_path: Path) -> None:
    two = '[[faults]]\nfault = "memory-alarm"\nat_s = 1\n[[faults]]\nfault = "latency"\nat_s = 2\n'
    assert load_scenario(write(tmp_path, WHOLE + two)).needs == {"alarms", "proxy"}
    assert load_scenario(write(tmp_path, WHOLE)).needs == frozenset()
