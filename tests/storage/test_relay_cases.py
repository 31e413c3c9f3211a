"""The relay bench's cases at a small size: each moves what it says, and counts what it says."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
from sqlalchemy import Engine

from benchmarks.parts import relay_cases
from benchmarks.parts.relay_cases import CASES, FIVE_GROUPS, ONE_GROUP, Load
from core.journey import Step
from core.storage.database import create_database_engine
from tests.storage.outbox_rows import Wire, scalar

WIRE = Wire()


def wire() -> Wire:
    """At module level: a relay in another process makes its own."""
    return WIRE


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    WIRE.sent.clear()
    engine = create_database_engine(database)
    yield engine
    engine.dispose()


def small(load: Load) -> Load:
    return replace(load, messages=200, keys=min(load.keys, 50), old_events=min(load.old_events, 4_000))


@pytest.mark.parametrize("load", dict.fromkeys(load for ours, _, beside in CASES.values() for load in (ours, beside)))
def test_a_round_clears_all_of_its_events(engine: Engine, load: Load) -> None:
    load = small(load)
    bench = relay_cases.Bench(engine, {ONE_GROUP: wire, FIVE_GROUPS: wire}, 400, 60)
    assert bench.rate_per_s(load) > 0
    schema = f"bench_relay_{load.old_events}"
    assert scalar(engine, f"SELECT count(*) FROM {schema}.pending") == 0
    assert scalar(engine, f"SELECT count(*) FROM {schema}.event") == load.old_events + load.messages
    if not load.processes:
        hot = [event for event in WIRE.sent if event.key == relay_cases.HOT_KEY]
        # Three of ten.
        assert (len(WIRE.sent), len(hot)) == (200, 60 if load.has_hot_key else 0)


def test_a_case_is_told_as_a_row_beside_its_baseline(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, beside, baseline = CASES["10-keys"]
    monkeypatch.setattr(relay_cases, "CASES", {"10-keys": (small(ours), beside, small(baseline))})
    [row] = relay_cases.run(engine, {ONE_GROUP: wire}, names=["10-keys"], rounds=3)
    assert (row["name"], row["baseline"], row["rounds"]) == ("10-keys", "10,000 keys", 3)
    monkeypatch.setattr(relay_cases.Bench, "rate_per_s", lambda _, load: float(load.keys))
    [row] = relay_cases.run(engine, {ONE_GROUP: wire}, names=["10-keys"], rounds=3)
    assert (row["rate_per_s"], row["baseline_rate_per_s"], row["ratio"]) == (10, 50, 0.2)


def test_a_hot_keys_own_events_are_no_part_of_the_rate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(messages=100, has_hot_key=True, counts_others=True)
    outbox = relay_cases.Mixed(engine, relay_cases.messaging_tables(relay_cases.MetaData()), 400, load, count(1))
    events = [outbox._event(place) for place in range(100)]
    assert outbox.counted_ids == {event.id for event in events if event.key != relay_cases.HOT_KEY}
    assert len(outbox.counted_ids) == 70
    countdown = relay_cases.CountdownOf(outbox.counted_ids)
    for event in sorted(events, key=lambda event: event.key != relay_cases.HOT_KEY)[:-1]:
        countdown.reach(Step.CLEARED, [event.id])
    assert not countdown.is_down.is_set()
    monkeypatch.setattr(relay_cases, "drain_s", lambda *_: 2.0)
    assert relay_cases.Bench(engine, {ONE_GROUP: wire}, 400, 60).rate_per_s(load) == 70 / 2.0
