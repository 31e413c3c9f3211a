"""`scripts/by_hand.py`, as a newcomer runs it, on brokers that are up already; and that it fails loudly."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import wiring
from testbed.settings import Settings
from tests.system.shop_threads import settings_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["kafka", "rabbitmq"])
def settings(request: pytest.FixtureRequest, database: str) -> Iterator[Settings]:
    made = settings_for(request, request.param, database, partitions=1)
    yield made
    admin = wiring.connect_broker(made).admin()
    admin.delete()
    admin.close()


def by_hand(settings: Settings, state: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        **wiring.as_environment(settings),
        "TESTBED_STATE": str(state),
        "PYTHONPATH": str(ROOT),
        "BY_HAND_WITHIN_S": "60",
        **more,
    }
    command = [sys.executable, str(ROOT / "scripts" / "by_hand.py"), settings.broker, "external"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.row("S2.26")
def test_an_order_by_hand_is_notified_and_found_in_the_topic(settings: Settings, tmp_path: Path) -> None:
    done = by_hand(settings, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[:2] for line in done.stdout.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3.", "4."]
    assert done.stdout.splitlines()[-1] == "all four steps hold"
    assert "OrderCreated" in done.stdout


def test_by_hand_says_loudly_at_which_step_it_stopped(tmp_path: Path) -> None:
    without = by_hand(Settings(broker="kafka"), tmp_path, DATABASE_URL="")
    assert without.returncode == 1
    assert "by hand: testbed up" in without.stderr
    assert "needs DATABASE_URL" in without.stderr
