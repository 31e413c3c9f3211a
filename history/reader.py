"""Read back what a run wrote down: `run.json` checked field by field, history lines with a torn last one tolerated.

Every other damage is named by file and line: a history that cannot be read whole proves nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CHUNK_BYTES = 1 << 20


class BrokenHistory(Exception):
    """Something in a run's folder is absent or unreadable: the run cannot be judged."""


class PlannedFault(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    fault: str
    planned_at_s: float
    """Seconds after the load phase began."""
    fired_at_s: float | None = None
    """None: its trigger never held, so the run did not do what it was to do."""
    missed: str = ""
    """Why, where it did not."""
    evidence: str | None = None
    """What shows that it struck, e.g. how many publishes were in flight."""


class Schedule(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    level: Literal["api", "outbox", "broker"] = "api"
    """Where the load entered. At broker level nothing but the history tells of the run: it has no ledger."""
    rate_per_s: float | None = None
    warm_up_s: float = 0.0
    load_s: float | None = None


class Drain(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    complete: bool
    waited_s: float | None = None


class RunFile(BaseModel):
    """`run.json`: what was run, on what, and which files tell of it. Further fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)
    format: int = Field(ge=1, le=1)
    broker: str = Field(min_length=1)
    scenario: str = Field(min_length=1)
    seed: int
    started_at: str = ""
    git_revision: str | None = None
    versions: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    strategies: dict[str, Any] = {}
    roles: dict[str, int] = {}
    """How many processes of each kind."""
    sets: list[str] | None = None
    """The `--set` words it was run with; None: not known (an older run)."""
    equivalents: list[dict[str, str]] = []
    """Promise, and which setting of each broker gives it."""
    contract: list[str]
    """Names of the anomalies that this run promises not to show."""
    plan: dict[str, Any] = {}
    """The scenario as it was run; empty: not known (an older run)."""
    schedule: Schedule = Schedule()
    faults: list[PlannedFault] = []
    history_files: list[str] = Field(min_length=1)
    """Names, inside `history/`, of every file that was opened."""
    files: dict[str, int] = {}
    """As `line_counts` gave them when the run ended; empty: not known (an older run)."""
    drain: Drain


def read_run(folder: Path) -> RunFile:
    """`run.json` of a run's folder. Raises BrokenHistory naming each wrong field."""
    path = folder / "run.json"
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BrokenHistory(f"{folder} has no run.json: it is not a run's folder, or the run never started") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise BrokenHistory(f"run.json of {folder.name} is wrong: {wrong}") from error


def line_counts(folder: Path) -> dict[str, int]:
    """Path below the folder -> lines, a torn last one included, of every file of `history/` and `ledger/`."""
    found = {}
    for path in sorted(path for kind in ("history", "ledger") for path in (folder / kind).glob("*.ndjson")):
        lines, last = 0, b"\n"
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                lines, last = lines + chunk.count(b"\n"), chunk[-1:]
        found[f"{path.parent.name}/{path.name}"] = lines + (last != b"\n")
    return found


def history_paths(folder: Path) -> list[Path]:
    return sorted((folder / "history").glob("*.ndjson"))


def torn_at(path: Path) -> int | None:
    """The byte at which the torn last line begins; None when the last line is whole.

    Whole is what parses: a writer killed between its text and its newline lost nothing.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start, tail = end, b""
        while start > 0 and b"\n" not in tail[:-1]:
            step = min(1 << 16, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
            if tail.endswith(b"\n"):
                return None
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return None
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        return end - len(last)
    return None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Each line as a dict, without a torn last one. Raises BrokenHistory with the number of any other broken line."""
    end = torn_at(path)
    with path.open("rb") as file:
        at = 0
        for number, text in enumerate(file, start=1):
            if end is not None and at >= end:
                return
            at += len(text)
            if not text.strip():
                continue
            try:
                line = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise BrokenHistory(f"{path.parent.name}/{path.name} line {number} is not JSON: {error}") from error
            if not isinstance(line, dict):
                raise BrokenHistory(f"{path.parent.name}/{path.name} line {number} is not an object")
            yield line
