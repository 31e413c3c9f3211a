"""What the database tells of a load while it runs: what waits, what is overdue, what is lost, what was never stored."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from benchmarks import watching
from benchmarks.watching import DatabaseWatch
from core.commands.context import envelope_of
from core.domain.events import LikeChanged, Raised
from core.messaging.envelope import Envelope
from core.messaging.topology import DEAD_LETTER_GROUP
from core.outbox.rows import add_events
from testbed import wiring
from testbed.settings import read_settings

GROUP = "product-metrics"
LOST_AFTER_S = 30.0
NO_LAG = {GROUP: 0.0, DEAD_LETTER_GROUP: 0.0}


class Shop:
    """A database with an outbox, no relay and no consumer; and the watch, whose clock the test moves."""

    now_s = 0.0

    def __init__(self, url: str) -> None:
        self.database = wiring.open_database(read_settings(broker="memory", database_url=url))
        self.database.create()
        types = {GROUP: {"LikeChanged"}, "data-platform": {"OrderPaid"}}
        own = self.database
        self.watch = DatabaseWatch(own.engine, own.messaging, own.shop, types, LOST_AFTER_S, lambda: self.now_s)

    def commit(self, count: int) -> list[Envelope]:
        at = datetime.now(UTC) - timedelta(seconds=10)
        like = LikeChanged(product_id=1, customer_id="c", delta=1)
        likes = [envelope_of(Raised("1", None, like), str(uuid4()), at, "r") for _ in range(count)]
        with self.database.engine.begin() as connection:
            add_events(connection, self.database.messaging, likes)
        return likes

    def run(self, sql: str, **given: object) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(sql), given)

    def publish_all(self) -> None:
        self.run("DELETE FROM pending")

    def apply(self, event: Envelope) -> None:
        self.run("INSERT INTO inbox (consumer_group, event_id) VALUES (:g, CAST(:id AS uuid))", g=GROUP, id=event.id)

    def give_up(self, event: Envelope) -> None:
        self.run(
            "INSERT INTO failed_event (topic, consumer_group, event_id, headers, body, reason, attempts, "
            "first_failed_at, last_failed_at) VALUES (:topic, :g, :id, '', '', 'r', 5, now(), now())",
            topic=event.topic,
            g=GROUP,
            id=event.id,
        )

    def look(self, lags: dict[str, float] = NO_LAG, orders: tuple[str, ...] = ()) -> tuple[int, int, int | None]:
        """Waiting, overdue, lost."""
        self.watch.look(lags, orders)
        assert self.watch.problem == ""
        own = self.watch.groups[GROUP]
        return len(own.unsettled), self.watch.overdue(GROUP), own.lost


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    shop = Shop(database)
    yield shop
    shop.database.engine.dispose()


def test_an_event_is_overdue_once_it_was_out_of_the_outbox_for_so_long_and_settled_by_no_one(shop: Shop) -> None:
    shop.watch.begin()
    applied, given_up, lost, _ = shop.commit(4)
    assert shop.look() == (4, 0, 0)
    shop.now_s = 100
    assert shop.look() == (4, 0, 0), "in the outbox nothing is overdue"
    shop.publish_all()
    assert shop.look() == (4, 0, 0)
    shop.now_s = 129
    assert shop.look() == (4, 0, 0)
    shop.now_s = 130
    assert shop.look() == (4, 4, 4)
    shop.apply(applied)
    shop.give_up(given_up)
    assert shop.look() == (2, 2, 2)
    shop.apply(lost)
    assert shop.look() == (1, 1, 1)


def test_what_the_broker_may_still_hold_is_not_called_lost(shop: Shop) -> None:
    shop.watch.begin()
    shop.commit(10)
    shop.publish_all()
    shop.look()
    shop.now_s = 60
    assert shop.look({GROUP: 6.0, DEAD_LETTER_GROUP: 1.0}) == (10, 10, 3)
    assert shop.look({GROUP: 600.0, DEAD_LETTER_GROUP: 0.0}) == (10, 10, 0)
    assert shop.look({GROUP: 0.0}) == (10, 10, None), "letters on their way are not lost either"


def test_only_events_of_the_test_and_of_the_groups_own_types_are_counted(shop: Shop) -> None:
    shop.commit(3)
    shop.watch.begin()
    assert shop.look() == (0, 0, 0)
    shop.commit(2)
    assert shop.look() == (2, 0, 0)
    assert shop.watch.groups["data-platform"].unsettled == {}
    shop.watch.begin()
    assert shop.look() == (0, 0, 0)


def test_beyond_the_limit_events_are_taken_up_as_others_are_settled(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.watching.WATCHED_EVENTS", 4)
    shop.watch.begin()
    events = shop.commit(10)
    waiting = []
    for event in events:
        waiting.append(shop.look()[0])
        shop.apply(event)
    assert waiting == [4, 4, 4, 4, 4, 4, 4, 3, 2, 1]
    assert shop.look() == (0, 0, 0)


def test_an_order_that_was_acknowledged_and_is_not_there_is_shown_until_it_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.watch.begin()
    there, late, never = (str(uuid4()) for _ in range(3))
    insert = (
        "INSERT INTO orders (id, order_number, customer_id, original_total, total_amount, status, version) "
        "VALUES (CAST(:id AS uuid), nextval('order_number'), 'c', 1, 1, 'PENDING', 1)"
    )
    shop.run(insert, id=there)
    looked = []
    find = watching.find_orders
    monkeypatch.setattr(
        watching, "find_orders", lambda *given: (looked.append(set(shop.watch.unstored)), find(*given))[1]
    )
    shop.look(orders=(there, late, never))
    assert looked == [set()], "what was not looked for yet is not called lost"
    assert shop.watch.unstored == {late, never}
    shop.run(insert, id=late)
    shop.look()
    assert shop.watch.unstored == {never}


def test_a_database_that_is_away_is_named_and_the_test_counts_from_its_return(shop: Shop) -> None:
    away = wiring.open_database(read_settings(broker="memory", database_url="postgresql://nobody@127.0.0.1:1/none"))
    own = shop.database
    shop.watch._engine = away.engine
    shop.watch.begin()
    shop.watch.look(NO_LAG, ["019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11"])
    assert "127.0.0.1" in shop.watch.problem
    shop.watch._engine = own.engine
    shop.look()
    assert shop.watch.unstored == {"019a9c3e-7f5a-7d0e-8a54-0f3c9e6b2a11"}
