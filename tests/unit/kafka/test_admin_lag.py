"""How old the oldest unacked record of each lane is, found without reading a lane that is being written fast."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from brokers.kafka.admin import KafkaAdmin
from core.messaging.errors import BrokerError


class Record:
    def __init__(self, partition: int, written_ms: int) -> None:
        self._partition, self._written_ms = partition, written_ms

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self._partition

    def timestamp(self) -> tuple[int, int]:
        return 1, self._written_ms

    def error(self) -> None:
        return None


class Reader:
    """Gives one record after another of its lowest lane, without an end, and comes to the next lane only after it."""

    def __init__(self) -> None:
        self.lanes: list[int] = []
        self.polls = 0

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self.lanes = sorted(place.partition for place in places)

    def incremental_unassign(self, places: Sequence[TopicPartition]) -> None:
        self.lanes = [lane for lane in self.lanes if lane not in {place.partition for place in places}]

    def unassign(self) -> None:
        self.lanes = []

    def poll(self, timeout: float) -> Record:
        self.polls += 1
        assert self.polls < 100, "it reads a lane whose age it knows"
        return Record(self.lanes[0], 1_000 * self.lanes[0] + self.polls)


def test_a_lane_that_is_written_without_an_end_does_not_keep_the_age_of_another_from_being_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin, reader = object.__new__(KafkaAdmin), Reader()
    monkeypatch.setattr(admin, "_reader_kept", lambda: reader, raising=False)
    assert admin._written_at({("t", 1): 5, ("t", 2): 7}) == {("t", 1): 1.001, ("t", 2): 2.002}
    assert reader.lanes == []


def test_after_an_error_fresh_clients_ask_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ones may answer with it for ever."""
    closed: list[str] = []
    admin: Any = object.__new__(KafkaAdmin)
    admin._opened = object()
    admin._peeking = SimpleNamespace(close=lambda: closed.append("reader"))
    admin._watchers = {"g": SimpleNamespace(close=lambda: closed.append("watcher"))}

    def fails(group: str) -> None:
        raise BrokerError("unknown partition")

    monkeypatch.setattr(admin, "_lag", fails)
    with pytest.raises(BrokerError, match="unknown partition"):
        admin.lag("g")
    assert sorted(closed) == ["reader", "watcher"]
    assert (admin._opened, admin._peeking, admin._watchers) == (None, None, {})
