"""What the relay makes of rows of every kind, on each real broker, and how soon after the commit."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from time import sleep

import pytest
from sqlalchemy import text

from core.domain.events import EVENT_TYPES
from core.messaging.envelope import Envelope
from core.messaging.lanes import lane_of
from core.outbox.rows import EventSink, OutboxSink
from tests.mixed_orders import Traffic, mixed
from tests.system.shop_threads import Shop, settings_for, shop_on

ROWS = 5_000
POLL_S = 0.6
SEND_S = 2.0
"""What reading, sending and clearing one row may take on a machine that has much else to do."""
LOOKS = 3


def commit(shop: Shop, sink: EventSink, envelopes: Sequence[Envelope]) -> float:
    """Epoch seconds by the database's clock, just before the commit."""
    with shop.database.engine.begin() as connection:
        sink.write(connection, envelopes)
        at_s = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    sink.after_commit(envelopes)
    return float(at_s)


def is_relayed(shop: Shop) -> bool:
    return shop.rows("SELECT count(*) FROM pending") == [(0,)]


def row_to_confirm_s(shop: Shop, sink: EventSink, facts: Sequence[Envelope]) -> list[float]:
    """One row after the other, each while the relay idles: from its commit until the broker's confirm was noted."""
    found = []
    for fact in facts:
        committed_s = commit(shop, sink, [fact])
        shop.wait(lambda: is_relayed(shop))
        sql = "SELECT extract(epoch FROM max(cleared_at)) FROM cleared"
        found.append(float(shop.rows(sql)[0][0]) - committed_s)
        # It reads once more before it waits: a row written in that instant would have a lift.
        sleep(0.05)
    return found


@pytest.mark.row("S0.11")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_5000_rows_arrive_by_type_and_key_and_a_single_one_within_the_poll_or_at_once_by_the_doorbell(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    traffic = mixed(orders=ROWS // 5, tickets=100)[:ROWS]
    assert len(traffic) == ROWS
    settings = settings_for(request, broker, database, relay_poll_s=POLL_S, groups="product-metrics")
    with shop_on(settings, []) as shop:
        silent = OutboxSink(shop.database.messaging)
        for start in range(0, ROWS, 1_000):
            commit(shop, silent, traffic[start : start + 1_000])
        shop.wait(lambda: is_relayed(shop))

        wanted = defaultdict(list)
        for one in traffic:
            wanted[EVENT_TYPES[one.type].topic].append((lane_of(one.key, 3), one.key, one.type, one.id, one.data))
        assert len(wanted) == 3
        admin = shop.broker.admin()
        for topic, rows in wanted.items():
            wire = [(one.lane, one.key, one.envelope) for one in admin.read_all(topic)]
            assert sorted((lane, key, e.type, e.id, e.data) for lane, key, e in wire if e) == sorted(rows)
        admin.close()

        draw = Traffic(seed=2)
        facts = [draw.facts(number)[0] for number in range(2 * LOOKS)]
        polled_s = row_to_confirm_s(shop, silent, facts[:LOOKS])
        rung_s = row_to_confirm_s(shop, shop.context.sink, facts[LOOKS:])
        assert max(polled_s) <= POLL_S + SEND_S, polled_s
        assert median(rung_s) < POLL_S / 2 < median(polled_s), (rung_s, polled_s)
