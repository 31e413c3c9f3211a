"""The history's bench believes a recorded round only when its history tells every message."""

from pathlib import Path

import pytest

from benchmarks.parts.history import check_kept
from core.journey import Step
from history.recorder import Recorder

STEPS = (Step.DELIVERED, Step.ACKED)


def kept(folder: Path, *, delivered: int, acked: int) -> Path:
    recorder = Recorder(folder / "history", "consumer")
    recorder.reach(Step.DELIVERED, [f"id-{n}" for n in range(delivered)], group="g")
    recorder.reach(Step.ACKED, [f"id-{n}" for n in range(acked)], group="g")
    recorder.close()
    return folder


def test_a_history_of_every_message_at_every_step_is_what_a_recorded_round_leaves(tmp_path: Path) -> None:
    check_kept(kept(tmp_path, delivered=3, acked=3), STEPS, 3)


def test_a_recorded_round_that_kept_nothing_or_too_little_measured_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the history tells 0 of 3 messages delivered"):
        check_kept(tmp_path, STEPS, 3)
    with pytest.raises(RuntimeError, match="the history tells 2 of 3 messages acked"):
        check_kept(kept(tmp_path, delivered=3, acked=2), STEPS, 3)
