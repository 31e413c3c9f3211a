"""A load below the API on real brokers, at a small size: all of it accounted for, in a run's folder like any other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers.lifecycle import Server
from testbed.services import URL_SETTINGS

SEED = 11


def run(
    folder: Path, scenario: str, broker: Server, database: Server, *sets: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`run.json` and `verdict.json` of a run that must end with 0, on services that are there already."""
    there = {URL_SETTINGS["postgres"]: database.url, URL_SETTINGS[broker.name]: broker.url}
    words = [word for text in ("load.warm_up_s=0.5", "load.duration_s=2", *sets) for word in ("--set", text)]
    command = ["run", scenario, "--broker", broker.name, "--seed", str(SEED), "--provider", "external"]
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli", *command, "--out", str(folder), *words],
        env={**os.environ, **there},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"seed {SEED}\n{done.stdout}{done.stderr}"
    run_file, verdict = (json.loads((folder / name).read_text()) for name in ("run.json", "verdict.json"))
    return run_file, verdict


def test_a_driver_alone_with_the_broker_has_every_message_confirmed_and_received_in_order(
    broker_server: Server, postgres_server: Server, tmp_path: Path
) -> None:
    sets = ("load.rate_per_s=800", "load.hot_ratio=0.3")
    told, verdict = run(tmp_path / "run", "broker-steady", broker_server, postgres_server, *sets)
    counts = verdict["counts"]
    assert counts["committed"] == counts["attempted"] == counts["applied"] > 1_500
    assert {name: counts[name] for name in ("lost", "phantom", "out_of_order", "unknown")} == {
        "lost": 0, "phantom": 0, "out_of_order": 0, "unknown": 0,
    }  # fmt: skip
    assert verdict["latency_ms"].keys() == {"request_to_confirm", "confirm_to_receive", "request_to_receive"}
    assert not (tmp_path / "run" / "ledger").exists()
    roles = {name.partition("-")[0] for name in told["history_files"]}
    assert roles == {"driver", "receiver", "parent"}


def test_a_driver_at_the_outbox_is_accounted_for_by_the_database_from_row_to_effect(
    kafka_server: Server, postgres_server: Server, tmp_path: Path
) -> None:
    told, verdict = run(tmp_path / "run", "outbox-steady", kafka_server, postgres_server, "load.rate_per_s=400")
    counts = verdict["counts"]
    assert counts["acknowledged"] == counts["committed"] == counts["applied"] > 700
    assert counts["unstored"] == counts["lost"] == counts["duplicated_effects"] == counts["out_of_order"] == 0
    assert {"request_to_commit", "commit_to_confirm", "commit_to_apply"} <= verdict["latency_ms"].keys()
    roles = {name.partition("-")[0] for name in told["history_files"]}
    assert roles == {"driver", "relay", "consumer", "parent"}
