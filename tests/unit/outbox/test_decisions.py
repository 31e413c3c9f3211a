"""What follows from a broker's answers, with literal batches."""

from datetime import UTC, datetime

from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.outbox.decisions import Row, Settlement, fair_share, is_outage, settle, without_held


def row(id: int, key: str, attempts: int = 0) -> Row:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Row(id, 0, attempts, Envelope(str(id), "orders", "OrderCreated", "/shop/order", key, id, at, b"{}"))


def decide(rows: list[Row], outcomes: list[Outcome]) -> Settlement:
    return settle(rows, outcomes, max_attempts=5, refused_wait_s=0.2, unknown_wait_s=0.5)


def test_only_the_confirmed_prefix_of_a_key_is_cleared() -> None:
    rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "b"), row(5, "a")]
    done = decide(rows, [CONFIRMED, CONFIRMED, unknown("time-out"), CONFIRMED, CONFIRMED])
    assert [each.id for each in done.cleared] == [1, 2, 4]
    assert done.held_keys == {"a"}


def test_an_unknown_outcome_is_not_counted_as_an_attempt() -> None:
    (failure,) = decide([row(1, "a", attempts=3)], [unknown("nack")]).failures
    assert (failure.attempts, failure.is_parked, failure.wait_s) == (3, False, 0.5)


def test_a_refused_message_waits_longer_each_time_and_its_key_is_parked_at_the_fifth() -> None:
    failures = [decide([row(1, "a", attempts=n)], [refused("too large")]).failures[0] for n in range(5)]
    assert [failure.attempts for failure in failures] == [1, 2, 3, 4, 5]
    assert [failure.is_parked for failure in failures] == [False, False, False, False, True]
    assert [failure.wait_s for failure in failures] == [0.2, 0.4, 0.8, 1.6, 3.2]  # 0.2 * 2 ** attempts


def test_only_the_first_failed_row_of_a_key_is_blamed() -> None:
    done = decide([row(1, "a"), row(2, "a")], [refused("too large"), unknown("behind it")])
    assert [failure.row.id for failure in done.failures] == [1]


def test_what_was_read_ahead_of_a_held_key_is_not_published() -> None:
    ahead = [row(7, "a"), row(8, "b")]
    assert [each.id for each in without_held(ahead, {"a"})] == [8]


def test_an_outage_is_all_unknown_and_nothing_less() -> None:
    assert is_outage([unknown("x"), unknown("y")])
    assert not is_outage([unknown("x"), CONFIRMED])
    assert not is_outage([refused("x")])
    assert not is_outage([])


def test_fair_shares_cover_all_buckets() -> None:
    assert [fair_share(64, relays) for relays in (0, 1, 2, 3, 64, 100)] == [64, 64, 32, 22, 1, 1]
