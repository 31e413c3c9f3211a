"""Which entry of the audit stream is the oldest that a group owes."""

from brokers.rabbitmq.delay import Entry, oldest_place

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
