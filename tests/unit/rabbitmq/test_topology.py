"""Names and arguments on the broker, and who takes which lane."""

from collections import Counter

import pytest

from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.positions import Positions
from brokers.rabbitmq.topology import exchanges_of, priorities, queues_of
from core.messaging.topology import Route, Topology

URL = "amqp://127.0.0.1/"
SHOP = Topology(
    {"OrderCreated": Route("orders", "order.created"), "OrderPaid": Route("orders", "order.paid")},
    {"stock": frozenset({"OrderCreated"}), "mail": frozenset({"OrderCreated", "OrderPaid"})},
    partitions=2,
    prefix="p.",
)


def owners(slots: list[int], lanes: int) -> list[int]:
    ranks = {slot: priorities(slot, lanes) for slot in slots}
    return [max(slots, key=lambda slot: ranks[slot][lane]) for lane in range(lanes)]


@pytest.mark.parametrize("lanes", [1, 3, 6, 18, 64])
@pytest.mark.parametrize("members", [1, 2, 3, 5, 8])
def test_members_share_the_lanes_evenly(members: int, lanes: int) -> None:
    shares = Counter(owners(list(range(members)), lanes))
    counts = [shares[member] for member in range(members)]
    assert max(counts) - min(counts) <= 1


def test_a_joining_member_takes_lanes_and_moves_none_between_the_others() -> None:
    before, after = owners([0, 1], 12), owners([0, 1, 2], 12)
    assert all(new in (old, 2) for old, new in zip(before, after, strict=True))


def test_the_lanes_of_a_dead_member_spread_over_the_others() -> None:
    shares = Counter(owners([0, 1, 3, 4], 60))
    assert set(shares) == {0, 1, 3, 4}
    assert max(shares.values()) <= 25
    # Those of the first member were never another's: nobody gets them all.
    shares = Counter(owners([1, 2, 3, 4], 60))
    assert min(shares.values()) > 12


def test_no_two_members_hold_a_lane_with_the_same_winning_priority() -> None:
    for lane in range(18):
        ranks = [priorities(slot, 18)[lane] for slot in range(6)]
        assert ranks.count(max(ranks)) == 1


def test_a_group_has_a_queue_a_lane_bound_by_the_exact_keys_of_its_types() -> None:
    plans = {plan.name: plan for plan in queues_of(SHOP, RabbitConfig(URL))}
    assert plans["stock.p.orders.1"].routing_keys == ("order.created.1",)
    assert plans["mail.p.orders.0"].routing_keys == ("order.created.0", "order.paid.0")
    assert plans["dead-letter-service.p.orders.DLQ.1"].routing_keys == ("dead-letter.1",)
    assert exchanges_of(SHOP) == ("p.orders", "p.orders.DLQ")


def test_a_quorum_lane_has_one_active_consumer_no_length_limit_and_a_net_below() -> None:
    plan = next(plan for plan in queues_of(SHOP, RabbitConfig(URL)) if plan.name == "stock.p.orders.0")
    assert plan.arguments == {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": "p.orders.DLQ",
        "x-dead-letter-routing-key": "dead-letter.0",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_the_audit_stream_takes_every_key_and_is_left_out_where_nobody_wants_it() -> None:
    plans = {plan.name: plan for plan in queues_of(SHOP, RabbitConfig(URL))}
    assert plans["p.orders.audit"].routing_keys == (
        "order.created.0", "order.created.1", "order.paid.0", "order.paid.1",
    )  # fmt: skip
    unaudited = Topology(SHOP.routes, SHOP.subscriptions, audit=False)
    assert not any(plan.name.endswith(".audit") for plan in queues_of(unaudited, RabbitConfig(URL)))


def test_a_topic_without_routes_has_an_exchange_and_no_queue_for_its_messages() -> None:
    lonely = Topology(SHOP.routes, SHOP.subscriptions, audit=False, extra_topics=frozenset({"nobody"}))
    assert "nobody" in exchanges_of(lonely)
    assert all(plan.exchange != "nobody" for plan in queues_of(lonely, RabbitConfig(URL)))


def test_streams_are_shared_by_all_groups() -> None:
    names = {plan.name for plan in queues_of(SHOP, RabbitConfig(URL, queue_type="stream"))}
    assert {"p.orders.0", "p.orders.1"} <= names
    assert not any(name.startswith(("stock.", "mail.")) for name in names)


def test_a_position_moves_only_over_an_unbroken_run_of_acks() -> None:
    positions = Positions()
    positions.arrived("g", "s", 10)
    positions.acked("g", "s", 11)
    assert positions.start("g", "s") == 10
    positions.acked("g", "s", 11)
    positions.acked("g", "s", 10)
    assert positions.start("g", "s") == 12


def test_a_replayed_group_starts_from_the_beginning() -> None:
    positions = Positions()
    positions.acked("g", "s", 0)
    positions.move("g", None)
    assert positions.start("g", "s") == "first"
