"""What does keeping history cost the relay and the inbox? The same rounds with a process's recorder and without.

Both sides report to the probe a role of theirs would have; only one keeps a history, in a real file, one line a batch.
A recorded round's file is read back after the clock has stopped: if it left a message out, the bench ends.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from benchmarks.parts import inbox
from benchmarks.parts.relay import Outbox, cleared_per_s
from benchmarks.parts.rounds import compare_rounds
from core.journey import Probe, Step
from core.messaging.ports import Broker, Publisher
from core.messaging.topology import Topology
from core.outbox.relay import Relay
from core.storage.tables import MessagingTables
from history.reader import history_paths, read_lines

ROUNDS = 15
"""A side: the cost is a few hundredths, a round of a second or two varies by more."""
KEYS = 10_000
RELAY_STEPS = (Step.LEASED, Step.ATTEMPTED, Step.CONFIRMED, Step.CLEARED)
INBOX_STEPS = (Step.DELIVERED, Step.APPLIED, Step.ACKED)

Watch = Callable[[str, Path | None], AbstractContextManager[Probe]]
"""Role and the folder for its history (None: it keeps none) -> the probe such a process reports to."""


def run(
    watch: Watch,
    engine: Engine,
    tables: MessagingTables,
    publisher: Callable[[], Publisher],
    connect: Callable[[Topology], Broker],
    *,
    messages: int = 40_000,
    size_bytes: int = 400,
    batch_messages: int = 2_000,
    rounds: int = ROUNDS,
    seed: int = 1,
    round_timeout_s: float = 120.0,
) -> Iterator[dict[str, Any]]:
    """`relay-recorded` beside `relay`, then `inbox-recorded` beside `inbox`, as `testbed bench history --json` prints.

    `tables`: of an outbox of one's own; `publisher` sends its topic. `connect`: for the inbox's own topics.
    `batch_messages`: of the inbox. Raises RuntimeError when a recorded round's history is not whole.
    """
    outbox = Outbox(engine, tables, KEYS, size_bytes, "orders", "OrderCreated", count(1))

    def compare(name: str, role: str, steps: Sequence[Step], one_round: Callable[[Probe], float]) -> dict[str, Any]:
        def recorded() -> float:
            with tempfile.TemporaryDirectory(prefix="testbed-bench-history-") as home:
                with watch(role, Path(home) / "history") as probe:
                    rate = one_round(probe)
                check_kept(Path(home), steps, messages)
            return rate

        def unrecorded() -> float:
            with watch(role, None) as probe:
                return one_round(probe)

        return compare_rounds(recorded, unrecorded, rounds, seed, name=f"{name}-recorded", baseline_name=name).as_dict()

    def relayed_per_s(probe: Probe) -> float:
        def relay(sender: Publisher, countdown: Probe) -> Relay:
            return Relay(engine, tables, sender, probe=_Both(probe, countdown))

        return cleared_per_s(outbox, messages, publisher, relay, round_timeout_s)

    yield compare("relay", "relay", RELAY_STEPS, relayed_per_s)
    with inbox.opened(connect, engine, batch_messages) as bench:
        yield compare("inbox", "consumer", INBOX_STEPS, partial(bench.default_per_s, messages))


class _Both:
    """Reports to the first, then to the second."""

    def __init__(self, first: Probe, second: Probe) -> None:
        self._first, self._second = first, second

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        self._first.reach(step, ids, group=group, outcomes=outcomes)
        self._second.reach(step, ids, group=group, outcomes=outcomes)


def check_kept(folder: Path, steps: Sequence[Step], messages: int) -> None:
    """Raises RuntimeError where the history below `folder` tells fewer than `messages` at one of `steps`."""
    told = Counter[str]()
    for path in history_paths(folder):
        for line in read_lines(path):
            told[line["step"]] += len(line.get("ids", ()))
    for step in steps:
        if told[step] < messages:
            raise RuntimeError(f"the history tells {told[step]} of {messages} messages {step}; nothing was measured")
