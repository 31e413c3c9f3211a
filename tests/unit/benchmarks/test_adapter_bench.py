"""The adapter's bench counts only what was confirmed and received, and hands the bare client the same work."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.parts.adapter import BARE, OURS, TOPOLOGY, Bare, document, publish_all, run, stopped_consumer
from brokers.memory import Faults, MemoryConfig, Store, connect
from core.messaging.envelope import Envelope


class FixedBare:
    """A bare client that takes one second for everything."""

    def __init__(self) -> None:
        self.published: list[tuple[int, int, int]] = []
        self.received: list[tuple[int, int]] = []
        self.closed = False

    def publish(self, bodies: Sequence[bytes], keys: Sequence[str]) -> float:
        self.published.append((len(bodies), len(keys), len(bodies[0])))
        return 1.0

    def receive(self, uncounted: int, counted: int) -> float:
        self.received.append((uncounted, counted))
        return 1.0

    def close(self) -> None:
        self.closed = True

    def as_bare(self, **vendor: Any) -> Bare:
        return Bare("fixed", self.publish, self.receive, self.close, **vendor)


def test_each_size_gives_a_row_for_publish_and_one_for_receive_beside_the_vendor() -> None:
    fixed = FixedBare()
    bare = fixed.as_bare(vendor_publish_per_s=lambda size_bytes: 1000.0 * size_bytes)
    store = Store()
    rows = list(run(connect(MemoryConfig(store), TOPOLOGY), bare, round_s=0, batch_messages=700, rounds=3))
    assert [row["name"] for row in rows] == ["publish-512", "receive-512", "publish-4096", "receive-4096"]
    assert [row["baseline_rate_per_s"] for row in rows] == [10_000.0, 7_000.0] * 2
    assert [row.get("vendor_rate_per_s") for row in rows] == [512_000.0, None, 4_096_000.0, None]
    assert all(row["rate_per_s"] > 0 and row["rounds"] == 3 for row in rows)
    assert fixed.published == [(10_000, 10_000, 512)] * 4 + [(10_000, 10_000, 4096)] * 4
    # Whatever was published in a round is received in it, so that no round starts with another's messages.
    assert fixed.received == [(3_000, 7_000)] * 8
    assert fixed.closed
    assert not store.has_topic(OURS)
    assert not store.has_topic(BARE)


def test_a_message_that_is_not_confirmed_ends_the_bench() -> None:
    broker = connect(MemoryConfig(), TOPOLOGY)
    broker.admin().declare()
    broker.config.store.faults = Faults(lost_confirm_ratio=0.01)
    with pytest.raises(RuntimeError, match="not confirmed"):
        list(run(broker, FixedBare().as_bare(), round_s=0, rounds=3))


def test_the_publish_clock_runs_until_the_last_batch() -> None:
    calls: list[int] = []

    class Recording:
        def publish(self, batch: Sequence[Envelope], timeout_s: float) -> list[Any]:
            calls.append(len(batch))
            return []

        def close(self) -> None:
            return None

    assert publish_all(Recording(), [None] * 25, 10) > 0  # type: ignore[list-item]
    assert calls == [10, 10, 5]


def test_a_stopped_consumer_holds_its_first_batch_and_its_growth_is_told() -> None:
    memory = stopped_consumer(connect(MemoryConfig(), TOPOLOGY), backlog_bytes=16_000_000, hold_s=0.1)
    assert memory["held_messages"] == 500
    assert 0 <= memory["growth_bytes"] < 16_000_000
    assert document("memory", "memory", [], memory)["memory"] == memory
