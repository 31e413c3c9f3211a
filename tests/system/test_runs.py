"""The whole path on real brokers, at a small size: what the default keeps, what naive strategies lose, and that the
judge sees both. Each run starts its own services and processes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.verdict import ANOMALIES, judge_folder

BROKERS = ("kafka", "rabbitmq")
SMALL = ("load.rate_per_s=40", "load.warm_up_s=2", "load.duration_s=10")
SEED = 11


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed.cli", *arguments], capture_output=True, text=True, timeout=400
    )


def run(folder: Path, scenario: str, broker: str, *sets: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, verdict.json and all that was printed."""
    words = [word for text in (*SMALL, *sets) for word in ("--set", text)]
    done = cli("run", scenario, "--broker", broker, "--seed", str(SEED), "--out", str(folder), *words)
    said = f"seed {SEED}\n{done.stdout}{done.stderr}"
    verdict = folder / "verdict.json"
    return done.returncode, json.loads(verdict.read_text()) if verdict.exists() else {}, said


@pytest.fixture(scope="module")
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one kill-mid-publish run a broker, made when first asked for."""
    made: dict[str, Path] = {}

    def folder(broker: str) -> Path:
        if broker not in made:
            made[broker] = tmp_path_factory.mktemp(broker) / "run"
            everyone = ("faults=sigkill@4+1", "roles.groups=")
            code, verdict, said = run(made[broker], "kill-mid-publish", broker, *everyone)
            assert code == 0, said
            assert verdict["verdict"] == "valid", said
        return made[broker]

    return folder


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.row("S0.15", "S1.35")
def test_the_default_survives_a_sigkill_of_the_broker_that_publishes_felt(
    killed: Callable[[str], Path], broker: str
) -> None:
    folder = killed(broker)
    counts = json.loads((folder / "verdict.json").read_text())["counts"]
    fault = json.loads((folder / "run.json").read_text())["faults"][0]
    assert fault["fired_at_s"] >= 4
    assert fault["unknown_outcomes"] >= 1
    assert counts["committed"] > 200
    groups = json.loads((folder / "verdict.json").read_text())["groups"]
    for name in ("order-saga", "inventory-service", "payment-service", "order-service"):
        assert groups[name]["applied"] + groups[name]["ignored"] == groups[name]["committed"] >= counts["acknowledged"]
    invariants = json.loads((folder / "verdict.json").read_text())["invariants"]
    books = {"stock_conserved", "stock_follows_order", "money_conserved", "delivered_once", "no_hung_saga"}
    assert books | {"views_counted"} <= invariants.keys()
    assert {name: counts[name] for name in ("lost", "phantom", "duplicated_effects", "out_of_order", "unstored")} == {
        "lost": 0,
        "phantom": 0,
        "duplicated_effects": 0,
        "out_of_order": 0,
        "unstored": 0,
    }


def _edit(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def _without_one_delivery(folder: Path) -> None:
    def drop(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        once = [id_ for line in lines if line["step"] == "delivered" for id_ in line["ids"]]
        victim = next(id_ for id_ in once if once.count(id_) == 1)
        for line in lines:
            if line["step"] == "delivered" and victim in line["ids"]:
                line["ids"].remove(victim)
        return lines

    _edit(max((folder / "history").glob("consumer-*.ndjson"), key=lambda path: path.stat().st_size), drop)


def _with_a_doubled_effect(folder: Path) -> None:
    def double(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        again = dict(lines[0], applied_no=max(line["applied_no"] for line in lines) + 1)
        return [*lines, again]

    _edit(folder / "ledger" / "effects.ndjson", double)


def _without_an_effect(folder: Path) -> None:
    _edit(folder / "ledger" / "effects.ndjson", lambda lines: lines[1:])


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(
    ("tamper", "code", "word", "count"),
    [
        (_without_one_delivery, 2, "unknown", "undelivered_effect"),
        (_with_a_doubled_effect, 1, "invalid", "duplicated_effects"),
        (_without_an_effect, 1, "invalid", "lost"),
    ],
)
def test_verify_tells_from_the_files_alone_what_was_done_to_them(
    killed: Callable[[str], Path],
    tmp_path: Path,
    broker: str,
    tamper: Callable[[Path], None],
    code: int,
    word: str,
    count: str,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(killed(broker), folder)
    same = cli("verify", str(folder))
    assert same.returncode == 0, same.stdout + same.stderr
    tamper(folder)
    told = cli("verify", str(folder))
    assert told.returncode == code, told.stdout + told.stderr
    assert f": {word}" in told.stdout
    assert f"{count} 1" in told.stdout


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _with_two_effects_of_an_aggregate_swapped(folder: Path) -> None:
    events = {event["event_id"]: event for event in _lines(folder / "ledger" / "events.ndjson")}
    effects = _lines(folder / "ledger" / "effects.ndjson")
    seen: dict[tuple[str, ...], dict[str, Any]] = {}
    for effect in effects:
        event = events[effect["event_id"]]
        lane = (effect["group"], event["topic"], event["aggregate_type"], event["aggregate_id"])
        earlier = seen.setdefault(lane, effect)
        if event["sequence"] is not None and events[earlier["event_id"]]["sequence"] < event["sequence"]:
            earlier["applied_no"], effect["applied_no"] = effect["applied_no"], earlier["applied_no"]
            _edit(folder / "ledger" / "effects.ndjson", lambda _: effects)
            return
    raise AssertionError("no group applied two versions of one aggregate")


def _with_an_invented_delivery(folder: Path) -> None:
    def invent(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        next(line for line in lines if line["step"] == "delivered")["ids"].append(str(uuid.uuid4()))
        return lines

    _edit(max((folder / "history").glob("consumer-*.ndjson"), key=lambda path: path.stat().st_size), invent)


def _without_a_stored_answer(folder: Path) -> None:
    answers = _lines(next((folder / "history").glob("driver-*.ndjson")))
    heard = {
        id_
        for line in answers
        if line["step"] == "answered"
        for id_, outcome in zip(line["ids"], line["outcomes"], strict=True)
        if outcome == "acknowledged"
    }

    def forget(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        lines.remove(next(line for line in lines if line["idempotency_key"] in heard))
        return lines

    _edit(folder / "ledger" / "requests.ndjson", forget)


def _without_a_history_file(folder: Path) -> None:
    next((folder / "history").glob("api-*.ndjson")).unlink()


def _with_the_drain_cut_short(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    run["drain"]["complete"] = False
    (folder / "run.json").write_text(json.dumps(run))


def _with_a_clock_50_ms_behind(folder: Path) -> None:
    _edit(
        max((folder / "history").glob("consumer-*.ndjson"), key=lambda path: path.stat().st_size),
        lambda lines: [{**line, "t_ns": line["t_ns"] - 50_000_000} for line in lines],
    )


PLANTED: tuple[tuple[Callable[[Path], None], str, dict[str, int]], ...] = (
    (_with_two_effects_of_an_aggregate_swapped, "invalid", {"out_of_order": 1}),
    (_with_an_invented_delivery, "invalid", {"phantom": 1}),
    (_without_a_stored_answer, "invalid", {"unstored": 1}),
    (_without_a_history_file, "unknown", {}),
    (_with_the_drain_cut_short, "unknown", {}),
    (_with_a_clock_50_ms_behind, "valid", {}),
)


@pytest.mark.parametrize("broker", BROKERS)
def test_each_anomaly_planted_in_a_real_run_gives_exactly_that_finding(
    killed: Callable[[str], Path], tmp_path: Path, broker: str
) -> None:
    clean = judge_folder(killed(broker)).counts
    for plant, word, more in PLANTED:
        folder = tmp_path / plant.__name__
        shutil.copytree(killed(broker), folder)
        plant(folder)
        found = judge_folder(folder)
        counts = {name: found.counts[name] - clean[name] for name in ANOMALIES}
        assert (found.word, {name: extra for name, extra in counts.items() if extra}) == (word, more), plant.__name__


@pytest.mark.parametrize(
    ("number", "begun"),
    [(signal.SIGTERM, "tmp/testbed-run-*/rabbitmq/rabbitmq.log"), (signal.SIGINT, "run/history/driver-*.ndjson")],
    ids=["SIGTERM-services-start", "SIGINT-load"],
)
def test_an_interrupted_run_stops_everything_and_leaves_an_unknown_verdict(
    tmp_path: Path, number: signal.Signals, begun: str
) -> None:
    folder, temporary = tmp_path / "run", tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "testbed.cli", "run", "steady", "--broker", "rabbitmq", "--out", str(folder)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(begun)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    if number is signal.SIGINT:
        assert json.loads((folder / "verdict.json").read_text())["verdict"] == "unknown", said
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _belongs(int(pid), tmp_path)]
    assert left == []
    assert list(temporary.iterdir()) == []


def _belongs(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return str(folder).encode() in environment and pid != os.getpid()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "steady", "--broker", "nats"], "BROKER='nats' is refused: use one of kafka, rabbitmq, memory"),
        (["run", "stedy", "--broker", "kafka"], "no scenario 'stedy'"),
        (["run", "steady", "--broker", "kafka", "--set", "relay.claim=hope"], "relay.claim=hope: use one of lease"),
        (["run", "steady", "--broker", "kafka", "--set", "load.rate_per_s=-1"], "load.rate_per_s"),
        (["run", "steady", "--broker", "kafka", "--set", "roles.groups=order-sage"], "no group 'order-sage'"),
        (["run", "steady", "--broker", "kafka", "--set", "faults=meteor"], "no fault 'meteor'"),
        (["run", "steady", "--broker", "memory"], "BROKER=memory has no process to break"),
    ],
)
def test_a_wrong_word_is_refused_with_what_is_allowed(tmp_path: Path, words: list[str], said: str) -> None:
    done = cli(*words, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
