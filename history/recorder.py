"""Write down what a process sees, one line a batch, before anything relies on it: it survives SIGKILL of the process.

One `write(2)` a line on a descriptor opened for appending, so threads and greenlets never mix lines and a killed
process leaves at most one torn line, its last. What was written is in the kernel: only a dead machine loses it, and a
dead machine ends the run. Not here: the shapes (`records`), reading (`reader`).
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from core.journey import Step
from history.records import FORMAT, UNRECORDED_STEPS


class HistoryNotKept(Exception):
    """A line could not be written whole: from now on this process can prove nothing and must stop."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name} cannot be written ({reason}): the run's verdict will be unknown. Free the disk.")


def _listed(value: object) -> object:
    if isinstance(value, Sequence | Mapping | set | frozenset):
        return list(value)
    raise TypeError(f"a history line cannot hold {type(value).__name__}")


class Recorder:
    """A `Probe` that writes. Safe from any number of threads or greenlets; not across fork (open another one)."""

    def __init__(self, folder: Path, role: str) -> None:
        """Open `folder`/<role>-<pid>-<t_ns>.ndjson and write its first line. Makes the folder."""
        # Monotonic steps from one reading of the wall clock: comparable between processes, never going back in one.
        self._anchor_ns = time.time_ns() - time.monotonic_ns()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{role}-{os.getpid()}-{self.now_ns()}.ndjson"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._broken = ""
        self._write({"t_ns": self.now_ns(), "step": "opened", "role": role, "pid": os.getpid(), "format": FORMAT})

    def now_ns(self) -> int:
        return self._anchor_ns + time.monotonic_ns()

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        """Write one line for the batch; nothing for an empty batch or a step inside an open transaction."""
        if step in UNRECORDED_STEPS or not ids:
            return
        line: dict[str, Any] = {"t_ns": self.now_ns(), "step": step, "ids": ids}
        if group is not None:
            line["group"] = group
        if outcomes is not None:
            if len(outcomes) != len(ids):
                raise ValueError(f"{step} has {len(ids)} ids and {len(outcomes)} outcomes")
            line["outcomes"] = outcomes
        self._write(line)

    def requested(
        self,
        ids: Sequence[str],
        intended_ns: Sequence[int],
        keys: Sequence[str] | None = None,
        sequences: Sequence[int] | None = None,
    ) -> None:
        """Idempotency keys about to be sent, each with the time the schedule wanted it sent.

        `keys`, `sequences`: of events that no database keeps, what fixes their order.
        """
        line: dict[str, Any] = {"t_ns": self.now_ns(), "step": "requested", "ids": ids, "intended_ns": intended_ns}
        if keys is not None and sequences is not None:
            line |= {"keys": keys, "sequences": sequences}
        for name in ("intended_ns", "keys", "sequences"):
            if name in line and len(line[name]) != len(ids):
                raise ValueError(f"requested has {len(ids)} ids and {len(line[name])} of {name}")
        self._write(line)

    def answered(self, ids: Sequence[str], outcomes: Sequence[str]) -> None:
        """What the API answered: acknowledged, rejected, or unknown (silence, a broken connection, a 5xx)."""
        self.reach(Step.ANSWERED, ids, outcomes=outcomes)

    def skipped(self, intended_ns: Sequence[int], has_key: bool = True) -> None:
        """Arrivals that were due and were not sent: the schedule slipped.

        `has_key`: sent, they would stand at the client boundary, as `requested`. Only such are counted on both sides.
        """
        self._event("skipped", count=len(intended_ns) if has_key else 0, intended_ns=intended_ns)

    def malformed(self, group: str, topic: str, reason: str) -> None:
        self._event("malformed", group=group, topic=topic, reason=reason)

    def phase(self, phase: str, complete: bool | None = None, contract: Sequence[str] | None = None) -> None:
        """A phase begins; at `warm_up`, `contract` says what the run promises not to show; at `check`, `complete`
        whether the drain reached the end."""
        told = {"complete": complete, "contract": contract}
        self._event("phase", phase=phase, **{name: fact for name, fact in told.items() if fact is not None})

    def fault(self, fault: str, action: str, target: str, detail: str = "") -> None:
        """Call at the instant of true effect; `action` is inject or heal."""
        self._event("fault", fault=fault, action=action, target=target, detail=detail)

    def recovered(self, fault: str, step: str, after_s: float) -> None:
        """`step` was seen again `after_s` seconds after the fault took effect."""
        # The line's own step is `recovered`; the step seen again therefore travels as `seen`.
        self._event("recovered", fault=fault, seen=step, after_s=after_s)

    def sample(self, part: str, cpu_s: float, rss_bytes: int, disk_bytes: int, network_bytes: int | None) -> None:
        """Resource use of one part: CPU, disk and network counted from any fixed start, memory as it is now.

        `network_bytes` None: it could not be told.
        """
        known = {} if network_bytes is None else {"network_bytes": network_bytes}
        self._event("sample", part=part, cpu_s=cpu_s, rss_bytes=rss_bytes, disk_bytes=disk_bytes, **known)

    def lag(self, group: str, topic: str, lag_messages: int, delay_s: float | None) -> None:
        self._event("lag", group=group, topic=topic, lag_messages=lag_messages, delay_s=delay_s)

    def outbox(self, depth_messages: int, age_s: float | None) -> None:
        self._event("outbox", depth_messages=depth_messages, age_s=age_s)

    def close(self) -> None:
        """Write the last line; idempotent. A process that is killed has none, and that is no fault."""
        if self._fd >= 0:
            self._event("closed")
            os.close(self._fd)
            self._fd = -1

    def _event(self, step: str, **fields: Any) -> None:
        self._write({"t_ns": self.now_ns(), "step": step, **fields})

    def _write(self, line: dict[str, Any]) -> None:
        if self._broken:
            raise HistoryNotKept(self.path, self._broken)
        text = orjson.dumps(line, default=_listed, option=orjson.OPT_APPEND_NEWLINE)
        try:
            written = os.write(self._fd, text)
        except OSError as error:
            self._broken = error.strerror or str(error)
            raise HistoryNotKept(self.path, self._broken) from error
        if written != len(text):
            self._broken = f"{written} of {len(text)} bytes fitted"
            raise HistoryNotKept(self.path, self._broken)
