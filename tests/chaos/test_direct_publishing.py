"""Who answers for an event that a request publishes by itself, when the request dies or its publishing fails?

Ledger and wire of each real broker are compared: in the ledger alone, it is lost; on the wire alone, it is a phantom.
A death is an exception that nothing catches: what was committed and what the broker has stay as they are. The broker
that is away: `test_relay_faults.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from ablations.publish import SINKS
from core.journey import Step
from core.outbox.rows import EventSink, OutboxSink
from servers.lifecycle import Server
from tests.chaos.relay_world import RelayWorld, open_world
from tests.storage.outbox_rows import event
from tests.waiting import until

FATES = ("well", "dies_before_commit", "dies_after_commit", "publishing_fails")


@pytest.fixture
def world(broker_server: Server, database: str) -> Iterator[RelayWorld]:
    made = open_world(broker_server, database)
    yield made
    made.end()


class Killed(BaseException):
    """Not an Exception: nothing in a request may catch it, as nothing can catch SIGKILL."""


class FailsOnce:
    """An error in the publishing code itself, before anything was sent."""

    is_armed = False

    def reach(self, step: Step, ids: Sequence[str], *, group: Any = None, outcomes: Any = None) -> None:
        if step is Step.ATTEMPTED and self.is_armed:
            self.is_armed = False
            raise RuntimeError("the publishing code is broken")


def request(world: RelayWorld, sink: EventSink, key: str, fate: str) -> None:
    events = [event(key, 1)]
    with suppress(Killed, RuntimeError), world.engine.connect() as connection:
        sink.write(connection, events)
        if fate == "dies_before_commit":
            raise Killed
        connection.commit()
        if fate == "dies_after_commit":
            raise Killed
        sink.after_commit(events)


@pytest.mark.row("S0.23", "S0.24", "S1.14")
@pytest.mark.parametrize("each", [25, pytest.param(1_000, marks=pytest.mark.long)])
def test_a_request_that_publishes_by_itself_loses_or_invents_events_where_the_outbox_does_neither(
    world: RelayWorld, each: int
) -> None:
    probe = FailsOnce()
    sinks: dict[str, EventSink] = {
        name: make(world.tables, world.broker.publisher(), probe) for name, make in SINKS.items()
    }
    sinks["outbox"] = OutboxSink(world.tables)
    for strategy, sink in sinks.items():
        for number in range(each):
            for fate in FATES:
                probe.is_armed = fate == "publishing_fails"
                request(world, sink, f"{strategy} {fate} {number}", fate)
        probe.is_armed = False
        sink.close()
    with world.relaying():
        until(world.is_drained, timeout_s=120)
    with world.engine.connect() as connection:
        ledger = set(connection.exec_driver_sql("SELECT aggregate_id FROM event").scalars())
    wire = set(world.wire())
    assert counted(ledger - wire) == {"after_commit dies_after_commit": each, "after_commit publishing_fails": each}
    assert counted(wire - ledger) == {"inline dies_before_commit": each}
    # Rightly absent from both: the business step itself failed.
    absent = {f"{strategy} {fate}" for strategy in sinks for fate in FATES} - counted(ledger | wire).keys()
    assert absent == {
        "after_commit dies_before_commit",
        "outbox dies_before_commit",
        "inline publishing_fails",
    }


def counted(keys: set[str]) -> dict[str, int]:
    kinds = [key.rpartition(" ")[0] for key in keys]
    return {kind: kinds.count(kind) for kind in kinds}
