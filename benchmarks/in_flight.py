"""Which publishes are in flight right now, told from the history that the publishing processes write.

Read from the files and not from the processes: what they wrote before a publish survives whatever happens to them.
"""

from pathlib import Path

import orjson


class PublishesInFlight:
    """Follows `attempted` and `confirmed` lines of a run that is under way. Not for many threads."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._read_bytes: dict[Path, int] = {}
        self._open: dict[Path, set[str]] = {}

    def any(self) -> bool:
        """Whether a process has handed a batch to the broker and has not yet written down its outcomes."""
        for path in self._history.glob("*.ndjson"):
            if path.name.startswith(("relay-", "api-")):
                self._catch_up(path)
        return any(self._open.values())

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


def unknown_outcomes(history: Path, from_ns: int, to_ns: int) -> int:
    """How many publish outcomes were unknown between two instants (ns since 1970): what a broker fault left behind."""
    count = 0
    for path in history.glob("*.ndjson"):
        for line in path.read_bytes().splitlines():
            if b'"unknown"' in line and b'"confirmed"' in line:
                entry = orjson.loads(line)
                if entry["step"] == "confirmed" and from_ns <= entry["t_ns"] <= to_ns:
                    count += entry["outcomes"].count("unknown")
    return count
