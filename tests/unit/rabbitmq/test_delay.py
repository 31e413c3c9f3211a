"""Which entry of the audit stream is the oldest that a group owes."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.rabbitmq.codec import PUBLISHED_MS
from brokers.rabbitmq.delay import AuditTails, Entry, oldest_place

A, B = frozenset({"order.created.0", "order.paid.0"}), frozenset({"order.created.1"})


def tail(*keys: str) -> list[Entry]:
    """Offsets from 100, a second apart."""
    return [Entry(100 + number, key, 1_000 * number) for number, key in enumerate(keys)]


MIXED = tail("order.created.0", "order.created.1", "order.paid.0", "order.created.2", "order.created.1")


def test_of_one_owed_it_is_the_lanes_last() -> None:
    assert oldest_place(MIXED, {A: 1, B: 0}) == MIXED[2]


def test_of_several_owed_it_is_so_many_from_the_end_of_all_types_taken() -> None:
    assert oldest_place(MIXED, {A: 2}) == MIXED[0]


def test_over_the_lanes_it_is_the_oldest() -> None:
    assert oldest_place(MIXED, {A: 1, B: 2}) == MIXED[1]


def test_beyond_the_tail_its_place_follows_from_the_lanes_share() -> None:
    # Two entries in five are of the lane, so 10 owed are 25 entries.
    assert oldest_place(MIXED, {B: 10}) == 104 - 25


def test_the_place_is_never_before_the_streams_beginning() -> None:
    assert oldest_place(MIXED, {B: 1_000_000}) == 0


def test_nothing_owed_or_nothing_known_has_no_place() -> None:
    assert oldest_place(MIXED, {A: 0, B: 0}) is None
    assert oldest_place([], {A: 3}) is None


class Channel:
    """Has one entry; `dies`: its broker is gone once that was given."""

    is_open = True

    def __init__(self, dies: bool) -> None:
        self._dies = dies

    def basic_qos(self, prefetch_count: int) -> None:
        return None

    def consume(self, stream: str, arguments: object, inactivity_timeout: float) -> Iterator[tuple[Any, Any, bytes]]:
        method = SimpleNamespace(routing_key="order.created.0")
        yield method, SimpleNamespace(headers={"x-stream-offset": 7, PUBLISHED_MS: 7_000}), b""

    def close(self) -> None:
        if self._dies:
            raise ConnectionResetError("the broker is gone")


@pytest.mark.parametrize("dying", [0, 1])
def test_a_broker_that_dies_while_the_stream_is_read_is_told_to_whoever_asked(dying: int) -> None:
    channels = iter([Channel(number == dying) for number in range(3)])
    connection = SimpleNamespace(channel=lambda: next(channels))
    with pytest.raises(ConnectionResetError, match="the broker is gone"):
        AuditTails().oldest_ms(connection, "audit", {A: 1})


def test_a_stream_that_is_read_whole_tells_the_age() -> None:
    connection = SimpleNamespace(channel=lambda: Channel(dies=False))
    assert AuditTails().oldest_ms(connection, "audit", {A: 1}) == 7_000
