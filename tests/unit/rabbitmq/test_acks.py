"""Which acks settle which tags: never one that was not given, never one twice."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from brokers.rabbitmq.subscriber import Session
from brokers.rabbitmq.topology import Lane

LANE = Lane("orders", 0, "q")


def session(count: int) -> Session:
    return Session(threading.Event(), owed=dict.fromkeys(range(1, count + 1), LANE))


def test_all_in_order_is_one_ack() -> None:
    assert session(5).acks_of([1, 2, 3, 4, 5]) == [(5, True)]


def test_a_tag_behind_one_still_owed_is_acked_alone() -> None:
    assert session(5).acks_of([1, 3, 4]) == [(1, True), (3, False), (4, False)]


@given(st.permutations(range(1, 13)), st.lists(st.integers(1, 5), min_size=12, max_size=12))
def test_a_broker_that_is_acked_in_any_order_forgets_exactly_what_was_acked(order: list[int], sizes: list[int]) -> None:
    owing, broker, at = session(12), set(range(1, 13)), 0
    for size in sizes:
        tags = order[at : at + size]
        at += size
        for tag, upto in owing.acks_of(tags):
            assert tag in broker, "RabbitMQ closes the channel over a tag it does not know"
            broker = {left for left in broker if left > tag} if upto else broker - {tag}
        assert broker == set(order[at:])
