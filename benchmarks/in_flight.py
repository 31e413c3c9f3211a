"""Which publishes are in flight right now, told from the history that the publishing processes write.

Read from the files and not from the processes: what they wrote before a publish survives whatever happens to them.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil

_INSTANT = re.compile(rb'"t_ns":(\d+)')


class PublishesInFlight:
    """Follows `attempted` and `confirmed` lines of a run that is under way. Not for many threads."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._read_bytes: dict[Path, int] = {}
        self._open: dict[Path, set[str]] = {}

    def any(self) -> bool:
        """Whether a process has handed a batch to the broker and has not yet written down its outcomes."""
        for path in self._history.glob("*.ndjson"):
            if path.name.startswith(("relay-", "api-", "driver-")):
                self._catch_up(path)
        return any(open_ and _is_alive(path) for path, open_ in self._open.items())

    def _catch_up(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._read_bytes.get(path, 0))
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes[path] = self._read_bytes.get(path, 0) + len(whole)
        in_flight = self._open.setdefault(path, set())
        for line in whole.splitlines():
            if b'"attempted"' in line:
                in_flight.update(orjson.loads(line)["ids"])
            elif b'"confirmed"' in line:
                in_flight.difference_update(orjson.loads(line)["ids"])


def in_flight_during(history: Path, from_ns: int, to_ns: int) -> int:
    """How many messages were handed to the broker and not yet answered at some time between two instants."""
    found: set[str] = set()
    for path in history.glob("*.ndjson"):
        text = path.read_bytes()
        if _last_ns(text) < from_ns:
            # A process that died before: what it left open was answered to nobody.
            continue
        open_: set[str] = set()
        for entry in _lines(text, b'"attempted"', b'"confirmed"'):
            if entry["step"] == "attempted" and entry["t_ns"] <= to_ns:
                open_.update(entry["ids"])
            elif entry["step"] == "confirmed":
                if entry["t_ns"] >= from_ns:
                    found.update(open_.intersection(entry["ids"]))
                open_.difference_update(entry["ids"])
        found |= open_
    return len(found)


def unknown_outcomes(history: Path, from_ns: int, to_ns: int) -> int:
    """How many publish outcomes were unknown between two instants (ns since 1970): what a broker fault left behind."""
    return sum(
        entry["outcomes"].count("unknown")
        for path in history.glob("*.ndjson")
        for entry in _lines(path.read_bytes(), b'"unknown"')
        if entry["step"] == "confirmed" and from_ns <= entry["t_ns"] <= to_ns
    )


def dead_letters(history: Path, from_ns: int) -> int:
    """How many deliveries were given up from this instant on (ns since 1970)."""
    return sum(
        entry["outcomes"].count("dead_lettered")
        for path in history.glob("consumer-*.ndjson")
        for entry in _lines(path.read_bytes(), b'"dead_lettered"')
        if entry["t_ns"] >= from_ns
    )


def _is_alive(path: Path) -> bool:
    """Whether the process is there whose file this is (ROLE-PID-NS.ndjson)."""
    return psutil.pid_exists(int(path.name.split("-")[-2]))


def _last_ns(text: bytes) -> int:
    """When the last line was written, a torn one too; 0: none."""
    found = _INSTANT.match(text, max(0, text.rfind(b'"t_ns"')))
    return int(found[1]) if found else 0


def _lines(text: bytes, *marks: bytes) -> Iterator[dict[str, Any]]:
    """The lines that hold one of these words; not the torn last one of a killed process."""
    for line in text.splitlines():
        if any(mark in line for mark in marks):
            with contextlib.suppress(orjson.JSONDecodeError):
                yield orjson.loads(line)
