"""What a bench cannot measure is refused before anything is started; one without a broker starts none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.parts import proxy
from core.journey import Step
from history.reader import read_lines
from testbed import benches, doctor, services
from testbed.benches import bench
from testbed.cli import application
from testbed.settings import SettingError, read_settings

ROW = {
    "name": "proxy-MB",
    "rate_per_s": 321.0,
    "baseline": "the same sockets",
    "baseline_rate_per_s": 1234.0,
    "ratio": 0.26,
    "interval": [0.2, 0.3],
    "rounds": 3,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the proxy's bench was asked for. Nothing else may be needed."""

    def run(**options: Any) -> Iterator[dict[str, Any]]:
        calls.append(options)
        yield ROW

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a bench without a broker asked for services")

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(proxy, "run", run)
    monkeypatch.setattr(doctor, "require", refuse)
    monkeypatch.setattr(services, "start", refuse)
    monkeypatch.setenv("BROKER", "memory")
    return calls


def command(*arguments: str) -> str:
    done = CliRunner().invoke(application(["bench"]), ["bench", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_proxy_is_measured_without_a_broker_and_its_unit_is_told(asked: list[dict[str, Any]]) -> None:
    document = json.loads(command("proxy", "--json"))
    assert (document["bench"], document["broker"], document["unit"]) == ("proxy", "none", "MB")
    assert document["results"] == [ROW]
    assert "MB/s" in command("proxy", "--rounds", "7", "--size", "512")
    assert asked == [{"rounds": 5, "send_bytes": 65_536}, {"rounds": 7, "send_bytes": 512}]


def test_a_broker_for_the_proxy_is_refused(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(SettingError, match="--broker kafka: `bench proxy` has no broker; leave it out"):
        command("proxy", "--broker", "kafka")
    assert asked == []


def test_history_has_rounds_enough_for_a_few_hundredths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def note(part: str, broker: str, size: int, rounds: int, cases: object) -> dict[str, Any]:
        seen.append((part, rounds))
        return {"bench": part, "broker": broker, "profile": "p", "results": []}

    monkeypatch.setattr(benches, "_on_a_broker", note)
    command("history", "--broker", "kafka", "--json")
    command("history", "--broker", "kafka", "--rounds", "9", "--json")
    command("relay", "--broker", "kafka", "--json")
    assert seen == [("history", 15), ("history", 9), ("relay", 5)]


def test_a_recorded_side_keeps_a_file_and_the_other_none_whatever_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HISTORY_DIR", str(tmp_path / "set"))
    settings = read_settings()
    with benches.watched(settings, "relay", None) as probe:
        probe.reach(Step.LEASED, ["id-1"])
    assert list(tmp_path.iterdir()) == []
    with benches.watched(settings, "relay", tmp_path / "mine") as probe:
        probe.reach(Step.LEASED, ["id-1"])
    [path] = (tmp_path / "mine").glob("relay-*.ndjson")
    assert [line["step"] for line in read_lines(path)] == ["opened", "leased", "closed"]
    assert not (tmp_path / "set").exists()


class Asked(Exception):
    """What the machine has is looked at: the options were taken."""


def ask(names: object) -> None:
    raise Asked


@pytest.mark.parametrize("part", ["inbox", "api", "history"])
def test_a_size_is_refused_where_it_would_change_nothing(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(doctor, "require", ask)
    with pytest.raises(SettingError, match=f"--size 512: `bench {part}` has messages of its own"):
        bench(part, "kafka", size=512)  # type: ignore[arg-type]
    with pytest.raises(Asked):
        bench(part, "kafka")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["adapter", "relay"])
def test_a_size_is_taken_where_it_means_something(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(doctor, "require", ask)
    with pytest.raises(Asked):
        bench(part, "kafka", size=512)  # type: ignore[arg-type]
