"""A probe that kills its own process at a step of the journey: a crash between any two lines, by real SIGKILL."""

import os
import signal
import time
from collections.abc import Sequence

from core.journey import Probe, Step


def parse_crash_point(text: str) -> tuple[Step, float]:
    """`STEP[@EPOCH_S]` to the step and the instant (seconds since 1970) from which it counts; raises ValueError."""
    step, _, instant = text.partition("@")
    try:
        return Step(step), float(instant or 0)
    except ValueError:
        raise ValueError(f"{text!r}: use STEP or STEP@EPOCH_S with a step of {', '.join(Step)}") from None


class CrashProbe:
    """Passes every step on to `inner`, then dies at the first `step` that is reached at or after `not_before_s`.

    The recorder has written its line by then: it speaks of what happened before the crash.
    """

    def __init__(self, inner: Probe, step: Step, not_before_s: float = 0.0) -> None:
        self._inner = inner
        self._step = step
        self._not_before_s = not_before_s

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        self._inner.reach(step, ids, group=group, outcomes=outcomes)
        # Without ids nothing happened at this step: dying there would prove nothing.
        if step is self._step and ids and time.time() >= self._not_before_s:
            os.kill(os.getpid(), signal.SIGKILL)
