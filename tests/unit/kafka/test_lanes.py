"""A lane's position never passes a message that is not acked, and a key's messages keep their order through retries."""

from brokers.kafka.lanes import Lane, offset_of
from core.messaging.ports import Delivery


def lane_with(*keys: str) -> tuple[Lane, list[Delivery]]:
    """A lane that handed over one message a key, offsets from 0."""
    lane = Lane("orders", 0, next_offset=len(keys))
    lane.unacked = dict.fromkeys(range(len(keys)))
    return lane, [delivery(lane, offset, key) for offset, key in enumerate(keys)]


def delivery(lane: Lane, offset: int, key: str) -> Delivery:
    return Delivery(envelope=None, topic="orders", lane=0, token=(lane, offset), key=key)


def test_the_position_is_the_first_message_that_is_not_acked() -> None:
    lane, _ = lane_with("a", "b", "c")
    assert lane.position() == 0
    assert lane.settle([2])
    assert lane.settle([1])
    assert lane.position() == 0
    assert lane.settle([0])
    assert lane.position() == 3


def test_a_lane_never_read_has_no_position_to_commit() -> None:
    assert Lane("orders", 0).position() is None


def test_a_delivery_settles_once_and_not_after_its_lane_was_given_away() -> None:
    lane, _ = lane_with("a", "b")
    assert lane.settle([0])
    assert not lane.settle([0])
    lane.abandon()
    assert not lane.settle([1])


def test_a_failed_message_comes_back_before_what_was_held_behind_it_and_what_came_later() -> None:
    lane, (first, second, third) = lane_with("a", "a", "a")
    lane.wait(first, 5.0, [third, second], now_s=100.0)
    later = delivery(lane, 3, "a")
    lane.unacked[3] = None
    assert lane.join_queue(later)
    assert lane.take_due(104.9, 10) == []
    again = lane.take_due(105.0, 10)
    assert [offset_of(d) for d in again] == [0, 1, 2, 3]
    assert [d.attempts for d in again] == [1, 0, 0, 0]
    assert not lane.join_queue(delivery(lane, 4, "a"))


def test_another_key_does_not_wait() -> None:
    lane, (first, other) = lane_with("a", "b")
    lane.wait(first, 5.0, [], now_s=100.0)
    assert not lane.join_queue(other)


def test_a_queue_that_does_not_fit_goes_on_in_order_and_what_fails_again_stays_first() -> None:
    lane, messages = lane_with("a", "a", "a")
    lane.wait(messages[0], 0.0, messages[1:], now_s=100.0)
    [first] = lane.take_due(100.0, 1)
    lane.wait(first, 0.0, [], now_s=100.0)
    again = lane.take_due(100.0, 10)
    assert [(offset_of(d), d.attempts) for d in again] == [(0, 2), (1, 0), (2, 0)]


def test_a_message_of_a_lane_given_away_is_not_kept_for_a_retry() -> None:
    lane, (first,) = lane_with("a")
    lane.abandon()
    lane.wait(first, 0.0, [], now_s=100.0)
    assert lane.waiting == {}
    assert lane.take_due(101.0, 10) == []
