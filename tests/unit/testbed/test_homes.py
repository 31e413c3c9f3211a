"""A run's services leave nothing in the temporary folder, whatever ended it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from testbed.homes import home

ROOT = Path(__file__).parents[3]
LIVES = """
import time
from testbed.homes import home
with home() as mine:
    (mine / "postgres").mkdir()
    (mine / "postgres" / "data").write_text("much")
    print(mine, flush=True)
    time.sleep(300)
"""


def living(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", LIVES], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_home_is_gone_after_its_run_and_one_whose_run_was_killed_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, left = living(tmp_path)
    alive, kept = living(tmp_path)
    strangers = tmp_path / "testbed-run-of-somebody"
    strangers.mkdir()
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        with home() as mine:
            assert sorted(tmp_path.iterdir()) == sorted([kept, mine, strangers])
        assert (kept / "postgres" / "data").read_text() == "much"
        alive.send_signal(signal.SIGINT)
        alive.wait(30)
        assert list(tmp_path.iterdir()) == [strangers]
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()


def test_what_a_service_writes_while_its_home_is_removed_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    late = []

    def rmtree(path: Path, ignore_errors: bool) -> None:
        real_rmtree(path, ignore_errors=ignore_errors)
        if path == mine and not late:
            late.append(path)
            (path / "kafka").mkdir(parents=True)

    real_rmtree = shutil.rmtree
    with home() as mine:
        (mine / "kafka").mkdir()
        monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert late == [mine]
    assert not mine.exists()
