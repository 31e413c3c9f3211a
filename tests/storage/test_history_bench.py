"""`testbed bench history` at a small size: one side of each pair keeps a whole history, the other none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts import history
from brokers.memory.broker import connect
from brokers.memory.config import MemoryConfig
from core.journey import NoProbe, Probe
from history.reader import read_lines
from history.recorder import Recorder
from tests.storage.outbox_rows import Wire, open_outbox

MESSAGES = 60


@contextmanager
def watch(role: str, folder: Path | None) -> Iterator[Probe]:
    """As a process of that role has it."""
    recorder = Recorder(folder, role) if folder else None
    yield recorder or NoProbe()
    if recorder:
        recorder.close()


def run(url: str, watched: history.Watch) -> list[dict[str, Any]]:
    engine, tables = open_outbox(url)
    try:
        return list(
            history.run(
                watched,
                engine,
                tables,
                Wire,
                lambda topology: connect(MemoryConfig(), topology),
                messages=MESSAGES,
                batch_messages=20,
                rounds=3,
            )
        )
    finally:
        engine.dispose()


def test_relay_and_inbox_are_measured_beside_themselves_without_a_history(database: str) -> None:
    opened: list[tuple[str, bool]] = []
    relayed: set[str] = set()

    @contextmanager
    def noting(role: str, folder: Path | None) -> Iterator[Probe]:
        opened.append((role, folder is not None))
        with watch(role, folder) as probe:
            yield probe
        if folder and role == "relay":
            [path] = folder.glob("*.ndjson")
            steps = [line["step"] for line in read_lines(path)]
            assert (steps[0], steps[-1]) == ("opened", "closed")
            relayed.update(steps)

    rows = run(database, noting)
    assert [(row["name"], row["baseline"]) for row in rows] == [
        ("relay-recorded", "relay"),
        ("inbox-recorded", "inbox"),
    ]
    assert all(row["rate_per_s"] > 0 and row["rounds"] == 3 for row in rows)
    assert relayed == {"opened", "leased", "attempted", "confirmed", "cleared", "closed"}
    # A pair that does not count, then three: recorded first, last, first.
    order = [True, False, True, False, False, True, True, False]
    assert opened == [(role, recorded) for role in ("relay", "consumer") for recorded in order]


def test_a_recorded_side_that_does_not_record_ends_the_bench(database: str) -> None:
    @contextmanager
    def forgetful(role: str, folder: Path | None) -> Iterator[Probe]:
        with watch(role, folder if role == "relay" else None) as probe:
            yield probe

    with pytest.raises(RuntimeError, match="the history tells 0 of 60 messages delivered"):
        run(database, forgetful)
