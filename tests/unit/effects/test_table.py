"""Who takes what: nothing is published that nobody reads, and a command has one receiver."""

import pytest

from ablations.flow import FLOWS
from core.domain.events import EVENT_TYPES, Command
from core.effects.table import GROUPS, topology
from core.messaging.errors import UnroutedType


def test_every_registered_type_is_taken_by_some_group_of_the_shop() -> None:
    assert topology().audit_only == frozenset()


def test_a_type_that_only_the_audit_log_would_keep_is_refused_where_there_is_none() -> None:
    without = {name: group for name, group in GROUPS.items() if name != "product-metrics"}
    assert "LikeChanged" in topology(groups=without).audit_only
    with pytest.raises(UnroutedType, match="audit log alone"):
        topology(groups=without, audit=False)


@pytest.mark.parametrize("name", [name for name, kind in EVENT_TYPES.items() if issubclass(kind.payload, Command)])
def test_a_command_goes_to_one_group(name: str) -> None:
    assert sum(name in group.takes for group in GROUPS.values()) == 1


@pytest.mark.parametrize("flow", FLOWS)
def test_every_flow_takes_the_orders_that_are_made(flow: str) -> None:
    takers = {name for name, group in FLOWS[flow].items() if "OrderCreated" in group.takes}
    expected = "payment-service" if flow == "choreography_parallel" else "order-saga"
    assert expected in takers
    assert ("inventory-service" in takers) == (flow == "choreography_parallel")


@pytest.mark.row("S0.14")
@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("order-events", "order-events"),
        ("order.events.dlq", "order-events"),
        ("run_1f.order-events.DLQ", "order-events"),
        ("marketplace.order.created", "order-events"),
        ("marketplace.order.status-changed", "order-events"),
        ("ordercreated", "order-events"),
        ("OrderCreated", "order-events"),
        ("order.created.DLT", "order-events"),
        ("inventory.reserve", "order-commands"),
        ("like-changed", "catalog-events"),
        ("ticket-applied.DLQ", "ticket-applied"),
        ("oder-events", None),
        ("created", None),
        ("border.created", None),
        ("DLQ", None),
        ("", None),
    ],
)
def test_a_topic_is_found_by_the_names_that_other_systems_give_it(name: str, topic: str | None) -> None:
    assert topology().topic_of(name) == topic
