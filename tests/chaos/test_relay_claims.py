"""What one, two and four relays bring, claim by claim, on each real broker: whoever locks rows alone only waits."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from ablations.relay import Seams, relay_factory
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome
from core.messaging.ports import Publisher
from core.outbox.relay import RelayOptions
from core.storage.tables import BUCKETS
from servers.lifecycle import Server
from tests.chaos.relay_world import RelayWorld, open_world
from tests.waiting import until

RELAYS = (1, 2, 4)
ROWS = 400
OPTIONS = RelayOptions(batch_messages=20, poll_s=0.01, lease_s=5.0)
FEWEST_BUCKETS = "SELECT min(n) FROM (SELECT count(*) n FROM bucket_lease WHERE owner IS NOT NULL GROUP BY owner) s"


@pytest.fixture
def world(broker_server: Server, database: str) -> Iterator[RelayWorld]:
    made = open_world(broker_server, database)
    yield made
    made.end()


@dataclass
class Distant:
    """A real publisher whose broker is 0.5 s away: what a relay waits for is then an answer and not the processor."""

    inner: Publisher

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        outcomes = self.inner.publish(batch, timeout_s)
        time.sleep(0.5)
        return outcomes

    def close(self) -> None:
        self.inner.close()


def rate_per_s(world: RelayWorld, claim: str, relays: int) -> float:
    publishers = [Distant(world.broker.publisher()) for _ in range(relays)]
    stop, make = threading.Event(), relay_factory(Seams(claim))
    threads = [
        threading.Thread(target=make(world.engine, world.tables, one, OPTIONS).run, args=(stop,)) for one in publishers
    ]
    for thread in threads:
        thread.start()
    try:
        if claim == "lease":
            until(lambda: world.scalar(FEWEST_BUCKETS) == BUCKETS // relays)
        world.write(range(1, 2), [f"{claim} {relays} {number}" for number in range(ROWS)])
        start_s = time.monotonic()
        until(world.is_drained)
        return ROWS / (time.monotonic() - start_s)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        for publisher in publishers:
            publisher.close()


@pytest.mark.long
@pytest.mark.row("S0.31")
def test_relays_that_lock_each_other_out_are_no_quicker_together_and_those_with_rows_of_their_own_are(
    world: RelayWorld, record_property: Callable[[str, object], None]
) -> None:
    rates = {claim: [rate_per_s(world, claim, n) for n in RELAYS] for claim in ("for_update", "skip_locked", "lease")}
    for claim, found in rates.items():
        record_property(f"{claim}_per_s", [round(rate) for rate in found])
    one, two, four = rates["for_update"]
    assert max(two, four) < 1.4 * one, rates
    for claim in ("skip_locked", "lease"):
        one, two, four = rates[claim]
        assert two > 1.4 * one, rates
        assert four > 2.2 * one, rates
    # None of these claims lets two relays send one row.
    assert {len(found) for found in world.wire().values()} == {1}
