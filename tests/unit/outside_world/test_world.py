"""The outside world on its own: what its record says is what it did, keys honoured or not, and the seed fixes fates."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.outside_world.behaviour import Behaviours
from servers.outside_world.record import Call, Record, RecordInUse
from servers.outside_world.world import World

TEN = Decimal("10.00")
Open = Callable[..., World]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the world again and again on one record, closing the one before."""
    worlds: list[World] = []

    def make(seed: int = 0, **kinds: dict[str, Any]) -> World:
        for world in worlds:
            world.record.close()
        worlds[:] = [World(Record(tmp_path / "calls.ndjson"), Behaviours.model_validate(kinds), seed)]
        return worlds[0]

    yield make
    worlds[0].record.close()


def told(world: World) -> list[tuple[Any, ...]]:
    """(kind, key, outcome, did work, amount) of every call."""
    return [(c.kind, c.key, c.outcome, c.did_work, c.amount) for c in world.record.calls()]


def test_a_repeat_of_an_honoured_key_is_answered_alike_and_does_nothing(opened: Open) -> None:
    world = opened()
    answers = [world.charge("k", TEN, {}), world.charge("k", TEN, {}), world.deliver("mails", "k", {})]
    answers.append(world.deliver("mails", "k", {}))
    assert [answer.content["status"] for answer in answers] == ["completed", "completed", "accepted", "accepted"]
    assert told(world) == [
        ("payments", "k", "completed", True, TEN),
        ("payments", "k", "completed", False, 0),
        ("mails", "k", "accepted", True, 0),
        ("mails", "k", "accepted", False, 0),
    ]


def test_where_keys_are_not_honoured_a_repeat_charges_and_mails_again(opened: Open) -> None:
    deaf = {"honours_keys": False}
    world = opened(payments=deaf, mails=deaf)
    for _ in range(2):
        world.charge("k", TEN, {})
        world.deliver("mails", "k", {})
    assert [did_work for *_, did_work, _ in told(world)] == [True] * 4
    world.cancel("k")
    assert sum(amount for *_, amount in told(world)) == 0


def test_a_cancelled_payment_is_paid_back_once_and_never_charged_again(opened: Open) -> None:
    world = opened()
    world.charge("k", TEN, {})
    for _ in range(2):
        assert world.cancel("k").content == {"status": "cancelled"}
    assert [amount for *_, amount in told(world)] == [TEN, -TEN, 0]
    world.cancel("late")
    assert world.charge("late", TEN, {}).content == {"status": "failed", "reason": "cancelled before"}
    assert sum(amount for *_, amount in told(world)) == 0


def test_a_pending_payment_moves_no_money_until_it_is_settled_once(opened: Open) -> None:
    world = opened(payments={"pending_ratio": 1})
    assert world.settle("k", "completed", TEN) is None
    assert world.charge("k", TEN, {}).content == {"status": "pending"}
    assert world.settle("k", "completed", TEN) is not None
    assert world.settle("k", "completed", TEN) is None
    assert world.charge("k", TEN, {}).content == {"status": "completed"}
    assert sum(amount for *_, amount in told(world)) == TEN


def test_a_call_told_to_fail_does_nothing_and_a_silent_one_does_its_work(opened: Open) -> None:
    world = opened(mails={"failure_ratio": 1}, sms={"timeout_after_work_ratio": 1})
    failed, silent = world.deliver("mails", "k", {}), world.deliver("sms", "k", {})
    assert (failed.status, failed.is_silent, silent.status, silent.is_silent) == (503, False, 200, True)
    calls = list(world.record.calls())
    assert [(c.did_work, c.is_answered) for c in calls] == [(False, True), (True, False)]


def test_what_is_not_named_in_a_change_stays_as_it_was(opened: Open) -> None:
    world = opened(mails={"latency_ms": 5})
    world.change(Behaviours.model_validate({"sms": {"latency_ms": 7}}))
    assert (world.behaviour["mails"].latency_ms, world.behaviour["sms"].latency_ms) == (5, 7)


def test_after_a_restart_it_remembers_what_its_record_says(opened: Open) -> None:
    first = opened()
    odd = Decimal("9007199254740993.01")
    first.charge("paid", odd, {"orderId": "o-1"})
    first.cancel("gone")
    first.deliver("records", "e-1", {"kind": "x"})
    again = opened()
    assert again.charge("paid", odd, {}).content == {"status": "completed"}
    assert again.charge("gone", TEN, {}).content["status"] == "failed"
    again.deliver("records", "e-1", {})
    again.cancel("paid")
    calls = list(again.record.calls())
    assert [call.did_work for call in calls] == [True, True, True, False, True, False, True]
    assert (calls[0].body, calls[-1].amount) == ({"orderId": "o-1"}, -odd)
    assert [call.call_no for call in calls] == list(range(1, 8))


def test_a_torn_last_line_is_cut_off_and_its_call_never_happened(opened: Open) -> None:
    world = opened()
    world.charge("k", TEN, {"note": "x" * 200_000})
    whole_bytes = world.record.path.stat().st_size
    for torn in (b'{"call_no":2,"t_ns":1,"kind":"pay', b"x" * 150_000):
        with world.record.path.open("ab") as file:
            file.write(torn)
        world = opened()
        assert world.record.path.stat().st_size == whole_bytes
    world.charge("l", TEN, {})
    assert [key for _, key, *_ in told(world)] == ["k", "l"]


def test_one_record_is_written_by_one_world(opened: Open) -> None:
    world = opened()
    with pytest.raises(RecordInUse, match="another outside world writes"):
        Record(world.record.path)


def fates(world: World, keys: list[str]) -> dict[str, tuple[int, bool]]:
    answers = {key: world.deliver("mails", key, {}) for key in keys}
    return {key: (answer.status, answer.is_silent) for key, answer in answers.items()}


def test_the_seed_fixes_the_fate_of_each_call_of_a_key_whatever_comes_between(tmp_path: Path) -> None:
    behaviours = Behaviours.model_validate({"mails": {"failure_ratio": 0.3, "timeout_after_work_ratio": 0.2}})
    keys = [f"k-{number}" for number in range(400)]
    one, other, third = (
        World(Record(tmp_path / f"{number}.ndjson"), behaviours, seed) for number, seed in enumerate((7, 7, 8))
    )
    first = fates(one, keys)
    assert fates(other, keys[::-1]) == first
    assert fates(one, keys) == fates(other, keys)
    assert fates(third, keys) != first
    failed, silent = [sum(fate[part] == word for fate in first.values()) for part, word in ((0, 503), (1, True))]
    assert 80 <= failed <= 160
    assert 30 <= silent <= 90
    for world in (one, other, third):
        world.record.close()


CALLS = st.lists(st.tuples(st.sampled_from(["charge", "cancel", "settle", "restart"]), st.sampled_from("ab")))


@given(calls=CALLS, seed=st.integers(0, 99))
def test_with_honoured_keys_a_key_is_never_charged_twice_nor_paid_back_more_than_it_was_charged(
    calls: list[tuple[str, str]], seed: int
) -> None:
    behaviours = Behaviours.model_validate(
        {"payments": {"failure_ratio": 0.2, "timeout_after_work_ratio": 0.2, "declined_ratio": 0.2, "pending_ratio": 1}}
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "calls.ndjson"
        world = World(Record(path), behaviours, seed)
        for name, key in calls:
            if name == "restart":
                world.record.close()
                world = World(Record(path), behaviours, seed)
            elif name == "charge":
                world.charge(key, TEN, {})
            elif name == "cancel":
                world.cancel(key)
            else:
                world.settle(key, "completed", TEN)
        seen: list[Call] = list(world.record.calls())
        world.record.close()
    for key in "ab":
        charged = Decimal(0)
        for call in seen:
            if call.key == key:
                charged += call.amount
                assert charged in (0, TEN)
