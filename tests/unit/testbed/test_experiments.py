"""What a run is made of, before anything is started: scenario, settings, drawn faults, and what is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.scenario import Fault, Load, Roles, ScenarioError, names
from faults.catalogue import FAULTS
from servers.lifecycle import ServerFailed
from testbed import cli, experiments
from testbed.cli import application
from testbed.experiments import Board, prepare, run_once
from testbed.settings import SettingError

ROOT = Path(__file__).parents[3]
DIRECT = "publish_strategy=direct-after-commit"


@pytest.mark.parametrize(
    ("scenario", "broker", "sets", "said"),
    [
        ("disk-alarm", "kafka", [], "disk-alarm: kafka lacks the capability alarms that disk-alarm needs"),
        ("relay-crash", "kafka", [DIRECT], "PUBLISH_STRATEGY lacks the capability relay that relay-crash needs"),
        ("steady", "kafka", ["faults=random:x"], "use random:N with N of 1 or more"),
        ("steady", "kafka", ["faults=random:9"], r"use load.duration_s >= 135"),
        ("steady", "kafka", ["load.views_ratio=2"], "load.views_ratio"),
        ("steady", "kafka", ["colour=red"], "no such setting or seam 'colour'"),
        ("outbox-steady", "kafka", [DIRECT], "load.level=outbox: PUBLISH_STRATEGY=direct-after-commit has no outbox"),
        ("broker-steady", "kafka", ["faults=consumer-kill@1"], "consumer-kill strikes the consumer, which has no part"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_mend(scenario: str, broker: str, sets: list[str], said: str) -> None:
    with pytest.raises((ScenarioError, SettingError), match=said):
        prepare(scenario, broker, 1, sets)


def test_a_setting_that_a_users_own_scenario_misspells_is_refused_with_its_line(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('question = "Does it hold?"\n[load]\nrate_per_s = 9\nduration_s = 9\n[settings]\nbach = 5\n')
    with pytest.raises(ScenarioError, match=r"mine\.toml:6: settings\.bach: no such setting or seam 'bach'"):
        prepare(str(mine), "kafka", 1, [])


def test_settings_and_seams_of_a_users_own_scenario_are_in_force_unless_set_otherwise(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    settings = '[settings]\nbatch = 5\npartitions = 2\n"relay.claim" = "none"\n'
    mine.write_text('question = "Does it hold?"\n[load]\nrate_per_s = 9\nduration_s = 9\n' + settings)
    planned, found = prepare(str(mine), "rabbitmq", 3, ["partitions=4"])
    assert (planned.name, found.broker, found.seed) == ("mine", "rabbitmq", 3)
    assert (found.batch, found.partitions, found.seam("relay.claim")) == (5, 4, "none")


def test_the_numbers_beside_the_seams_are_taken_by_those_names_in_a_scenario_and_by_set(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    settings = '[settings]\n"consumer.workers" = 3\nlinger = 7\nsession_timeout = 40\n'
    mine.write_text('question = "Does it hold?"\n[load]\nrate_per_s = 9\nduration_s = 9\n' + settings)
    _, found = prepare(str(mine), "kafka", 1, [])
    assert (found.consumer_workers, found.linger_ms, found.session_timeout_s) == (3, 7.0, 40.0)
    _, found = prepare(str(mine), "kafka", 1, ["consumer.workers=4", "linger=8", "session_timeout=50"])
    assert (found.consumer_workers, found.linger_ms, found.session_timeout_s) == (4, 8.0, 50.0)


def test_a_seed_draws_the_same_faults_on_both_brokers_and_without_a_relay_none_of_its(tmp_path: Path) -> None:
    sets = ["faults=random:6", "load.duration_s=120"]
    kafka, rabbitmq = (prepare("steady", broker, 5, sets)[0] for broker in ("kafka", "rabbitmq"))
    assert len(kafka.faults) == 6
    assert kafka.faults == rabbitmq.faults
    assert kafka.faults != prepare("steady", "kafka", 6, sets)[0].faults
    without = [prepare("steady", "kafka", seed, [*sets, DIRECT])[0].faults for seed in range(30)]
    assert not [fault.fault for faults in without for fault in faults if fault.fault.startswith("relay")]


@pytest.mark.parametrize(("scenario", "struck"), [("broker-steady", {"broker", "network"}), ("outbox-steady", None)])
def test_a_seed_draws_only_faults_that_strike_a_part_of_the_run(scenario: str, struck: set[str] | None) -> None:
    sets = ["faults=random:6", "load.duration_s=120"]
    drawn = {
        FAULTS[fault.fault].target
        for seed in range(30)
        for fault in prepare(scenario, "kafka", seed, sets)[0].faults
    }  # fmt: skip
    assert drawn == (struck or {fault.target for fault in FAULTS.values()} - {"api"})


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
@pytest.mark.parametrize("name", names())
def test_every_supplied_scenario_can_be_run_or_names_what_the_broker_lacks(name: str, broker: str) -> None:
    if broker == "kafka" and name in ("memory-alarm", "disk-alarm"):
        with pytest.raises(ScenarioError, match="kafka lacks the capability alarms"):
            prepare(name, broker, 1, [])
    else:
        assert prepare(name, broker, 1, [])[0].name == name


def test_the_list_shows_each_scenario_with_its_question_and_who_can_have_it() -> None:
    lines = CliRunner().invoke(application([]), ["run", "--list"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == names()
    assert all("?" in line for line in lines)
    assert [line.split()[0] for line in lines if line.endswith("(rabbitmq only)")] == ["disk-alarm", "memory-alarm"]


def test_the_page_on_scenarios_names_every_fault_and_every_key() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text()
    assert [fault for fault in FAULTS if f"`{fault}`" not in page] == []
    keys = {*Load.model_fields, *Roles.model_fields, *Fault.model_fields} - {"api"}
    assert [key for key in keys if f"{key} = " not in page] == []


def test_the_example_of_the_page_is_a_scenario(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(page.partition("```toml\n")[2].partition("```")[0])
    planned, _ = prepare(str(mine), "kafka", 1, [])
    assert planned.faults[0].fault == "latency"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_an_experiment_it_stops_what_it_started_and_could_not_tell(number: signal.Signals) -> None:
    text = """
import time
from testbed.experiments import could_not_run
with could_not_run():
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        print("all stopped", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.stdout.read().startswith("all stopped\nstopped; what was measured so far is kept")
    assert process.returncode != -number


def test_the_machine_is_measured_before_anything_of_the_run_is_started_on_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """RabbitMQ is busy for seconds after it listens: measured beside that, a third of the machine seemed to be gone."""
    did: list[str] = []

    def measured() -> float:
        did.append("measured")
        return 190.0

    def started(*_: object) -> None:
        did.append("started")
        raise ServerFailed("enough")

    monkeypatch.setattr(experiments, "work_per_s", measured)
    monkeypatch.setattr(experiments, "services_of", started)
    with pytest.raises(ServerFailed, match="enough"), Board() as board:
        run_once(*prepare("steady", "rabbitmq", 1, []), tmp_path / "run", "auto", board)
    assert did == ["measured", "started"]


def test_an_error_that_nobody_expected_is_not_called_a_broken_promise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ends with 1 after a traceback, which is the word for a broken promise."""

    def fails(words: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "application", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err
