"""What the recorder writes is whole, in order, and survives the death of its process."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.journey import Step
from history.reader import BrokenHistory, read_lines, read_run, torn_at
from history.recorder import HistoryNotKept, Recorder


def lines(folder: Path) -> list[dict[str, object]]:
    (path,) = folder.glob("*.ndjson")
    return list(read_lines(path))


def test_a_batch_is_one_line_with_its_group_and_one_outcome_an_id(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "consumer")
    recorder.reach(Step.APPLIED, ("e-1", "e-2"), group="g", outcomes=("applied", "ignored"))
    recorder.close()
    opened, applied, closed = lines(tmp_path)
    assert (opened["step"], opened["role"], opened["format"], closed["step"]) == ("opened", "consumer", 1, "closed")
    del applied["t_ns"]
    assert applied == {"step": "applied", "group": "g", "ids": ["e-1", "e-2"], "outcomes": ["applied", "ignored"]}


def test_steps_inside_an_open_transaction_and_empty_batches_are_not_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "consumer")
    recorder.reach(Step.CLAIMED, ["e-1"], group="g")
    recorder.reach(Step.EFFECTED, ["e-1"], group="g")
    recorder.reach(Step.DELIVERED, [], group="g")
    assert [line["step"] for line in lines(tmp_path)] == ["opened"]


def test_an_outcome_too_few_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "relay")
    with pytest.raises(ValueError, match="2 ids and 1 outcomes"):
        recorder.reach(Step.CONFIRMED, ["e-1", "e-2"], outcomes=["confirmed"])
    assert len(lines(tmp_path)) == 1


def test_lines_of_many_threads_are_never_mixed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "relay")
    ids = [f"event-{n}" for n in range(400)]

    def write() -> None:
        for _ in range(50):
            recorder.reach(Step.LEASED, ids)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leased = [line for line in lines(tmp_path) if line["step"] == "leased"]
    assert len(leased) == 200
    assert all(line["ids"] == ids for line in leased)


def test_time_never_goes_back_within_a_process(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "relay")
    for n in range(100):
        recorder.reach(Step.LEASED, [str(n)])
    times = [int(str(line["t_ns"])) for line in lines(tmp_path)]
    assert times == sorted(times)


def test_what_was_reached_is_there_after_sigkill(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from core.journey import Step;"
        "from history.recorder import Recorder; recorder = Recorder(Path(sys.argv[1]), 'relay');"
        "recorder.reach(Step.ATTEMPTED, ['e-1']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path)] == ["opened", "attempted"]


def test_a_recorder_that_cannot_write_stops_its_process_for_good(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "relay")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._fd)
    os.close(full)
    with pytest.raises(HistoryNotKept, match="No space left"):
        recorder.reach(Step.LEASED, ["e-1"])
    with pytest.raises(HistoryNotKept):
        recorder.reach(Step.LEASED, ["e-2"])
    os.close(recorder._fd)


@pytest.mark.parametrize(
    ("text", "torn"),
    [
        (b'{"a":1}\n{"b":2}\n', None),
        (b'{"a":1}\n{"b":2}', None),
        (b'{"a":1}\n{"b":', 8),
        (b'{"a', 0),
        (b"", None),
        (b'{"a":1}\n{"b":"' + b"x" * 200_000, 8),
    ],
)
def test_a_torn_last_line_is_what_does_not_parse(text: bytes, torn: int | None, tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_bytes(text)
    assert torn_at(path) == torn


def test_a_broken_line_in_the_middle_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "relay-1.ndjson"
    path.write_bytes(b'{"a":1}\n{"b":\n{"c":3}\n')
    with pytest.raises(BrokenHistory, match=r"relay-1.ndjson line 2"):
        list(read_lines(path))


def test_a_wrong_run_file_names_every_wrong_field(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        '{"format": 1, "broker": "kafka", "scenario": "s", "seed": "x", "contract": [], "history_files": ["f"],'
        ' "drain": {}}'
    )
    with pytest.raises(BrokenHistory, match=r"seed: .*; drain.complete: Field required"):
        read_run(tmp_path)
