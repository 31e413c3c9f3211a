"""Where the processes of a run write, wherever they are started; and that a kill strikes only a process at work."""

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.scenario import load_scenario
from testbed.lab import RunLab
from testbed.role_process import RoleProcess
from testbed.settings import read_settings


class Named(RunLab):
    def _addresses(self) -> dict[str, Any]:
        return {}


def test_a_folder_named_from_where_the_user_stands_is_the_same_for_every_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = cast(Any, None)
    lab = Named(nothing, read_settings(), load_scenario("steady"), Path("mine"), nothing)
    assert lab._environment()["HISTORY_DIR"] == str(tmp_path / "mine" / "history")
    assert lab._outside_record == tmp_path / "mine" / "ledger" / "outside_calls.ndjson"


SLOW_START = """
import os, sys, time
time.sleep(0.5)
open(f"{sys.argv[1]}/relay-{os.getpid()}-1.ndjson", "w").close()
time.sleep(60)
"""


def test_a_process_is_killed_only_once_it_is_at_work(tmp_path: Path) -> None:
    """Restarted after one fault and killed by the next, it left no history, and nobody could judge the run."""
    nothing = cast(Any, None)
    lab = Named(nothing, read_settings(), load_scenario("steady"), tmp_path, nothing)
    (tmp_path / "history").mkdir()
    relay = RoleProcess("relay-1", [sys.executable, "-c", SLOW_START, str(tmp_path / "history")], tmp_path / "log", {})
    lab._roles = [relay]
    relay.start()
    lab.kill_role("relay")
    assert relay.exit_code == -9
    assert lab.history_files() == [f"relay-{relay.pid}-1.ndjson"]
    lab.kill_role("relay")
