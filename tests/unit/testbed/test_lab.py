"""Where the processes of a run write does not depend on where they are started."""

from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.scenario import load_scenario
from testbed.lab import RunLab
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
