"""Leases, fence, confirmed prefix and held keys under every order of steps: two owners, crashes, lost answers, time.

The model keeps the database and the broker in memory and drives the relay's own decisions. Three planted bugs show that
each of the three rules is needed, and that this model would notice its loss.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, refused, unknown
from core.outbox.decisions import Row, Settlement, fair_share, settle, without_held

KEYS, BUCKETS, OWNERS, LEASE, BATCH, MAX_ATTEMPTS = ("a", "b", "c"), 2, ("one", "two"), 3, 2, 2
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Pending:
    row: Row
    next_try: int | None = None
    is_parked: bool = False


@dataclass
class Lease:
    owner: str = ""
    epoch: int = 0
    until: int = -1


@dataclass
class Owner:
    """One relay's memory: lost when it crashes. `current` is in flight, `ahead` was read meanwhile."""

    held: dict[int, int] = field(default_factory=dict)
    current: tuple[Sequence[Row], dict[int, int]] = ((), {})
    ahead: tuple[Sequence[Row], dict[int, int]] = ((), {})
    outcomes: list[Outcome] | None = None


class RelayModel(RuleBasedStateMachine):
    """Subclasses take one rule away."""

    def settle(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> Settlement:
        return settle(rows, outcomes, max_attempts=MAX_ATTEMPTS, refused_wait_s=1, unknown_wait_s=1)

    def without_held(self, rows: Sequence[Row], held: Set[str]) -> Sequence[Row]:
        return without_held(rows, held)

    def may_mark(self, bucket: int, epoch: int) -> bool:
        return self.leases[bucket].epoch == epoch

    @initialize(keys=st.lists(st.sampled_from(KEYS), min_size=3, max_size=6))
    def start(self, keys: list[str]) -> None:
        self.now = 0
        self.written: list[Row] = []
        self.pending: dict[int, Pending] = {}
        self.leases = {bucket: Lease() for bucket in range(BUCKETS)}
        self.owners = {name: Owner() for name in OWNERS}
        self.seen_until = dict.fromkeys(OWNERS, -1)
        self.log: list[Row] = []
        self.commit_events(keys)
        self.keep_leases("one")

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3))
    def commit_events(self, keys: list[str]) -> None:
        for key in keys:
            self.commit_event(key)

    def commit_event(self, key: str) -> None:
        id = len(self.written) + 1
        envelope = Envelope(str(id), "orders", "OrderCreated", "/shop/order", key, id, AT, b"{}")
        new = Row(id, KEYS.index(key) % BUCKETS, 0, envelope)
        self.written.append(new)
        self.pending[id] = Pending(new)

    @rule(by=st.integers(1, LEASE + 1))
    def time_passes(self, by: int) -> None:
        self.now += by

    @rule(name=st.sampled_from(OWNERS))
    def keep_leases(self, name: str) -> None:
        owner = self.owners[name]
        self.seen_until[name] = self.now + LEASE
        share = fair_share(BUCKETS, sum(until > self.now for until in self.seen_until.values()))
        owner.held = {b: e for b, e in owner.held.items() if (self.leases[b].owner, self.leases[b].epoch) == (name, e)}
        for bucket in sorted(owner.held)[share:]:
            if all(row.bucket != bucket for row in [*owner.current[0], *owner.ahead[0]]):
                self.leases[bucket].owner = ""
                del owner.held[bucket]
        for bucket in owner.held:
            self.leases[bucket].until = self.now + LEASE
        for bucket, lease in self.leases.items():
            if len(owner.held) < share and (not lease.owner or lease.until < self.now):
                self.leases[bucket] = Lease(name, lease.epoch + 1, self.now + LEASE)
                owner.held[bucket] = lease.epoch + 1

    def read(self, owner: Owner) -> tuple[Sequence[Row], dict[int, int]]:
        """What the SQL of `OutboxStorage.read` says."""
        waiting = {
            each.row.envelope.key
            for each in self.pending.values()
            if each.is_parked or (each.next_try is not None and each.next_try > self.now)
        }
        flying = {row.id for row in owner.current[0]}
        rows = [
            each.row
            for id, each in sorted(self.pending.items())
            if each.row.bucket in owner.held and id not in flying and each.row.envelope.key not in waiting
        ]
        return rows[:BATCH], dict(owner.held)

    @precondition(lambda self: any(owner.held and owner.outcomes is None for owner in self.owners.values()))
    @rule(name=st.sampled_from(OWNERS), answers=st.lists(st.sampled_from("cccurl"), min_size=BATCH, max_size=BATCH))
    def publish(self, name: str, answers: list[str]) -> None:
        """One turn up to the answers: c confirmed, r refused, l landed but its answer lost, u never arrived."""
        owner = self.owners[name]
        if owner.outcomes is not None:
            return
        if not owner.current[0]:
            owner.current = self.read(owner)
        if not owner.current[0]:
            return
        owner.ahead = self.read(owner)
        owner.outcomes, absent = [], set()
        for row, answer in zip(owner.current[0], answers, strict=False):
            key = row.envelope.key
            if key in absent:
                # The port: after one that did not enter, no later one of its key enters.
                owner.outcomes.append(unknown("behind it"))
                continue
            if answer in "cl":
                self.log.append(row)
            else:
                absent.add(key)
            owner.outcomes.append({"c": CONFIRMED, "r": refused("no")}.get(answer) or unknown("silence"))

    @precondition(lambda self: any(owner.outcomes is not None for owner in self.owners.values()))
    @rule(name=st.sampled_from(OWNERS))
    def mark(self, name: str) -> None:
        """The rest of the turn; any time may have passed and any other relay acted since `publish`: a paused owner."""
        owner = self.owners[name]
        if owner.outcomes is None:
            return
        rows, epochs = owner.current
        done = self.settle(rows, owner.outcomes)
        for row in done.cleared:
            if row.id in self.pending and self.may_mark(row.bucket, epochs[row.bucket]):
                self.assert_owner(row, epochs)
                del self.pending[row.id]
        for failure in done.failures:
            row = failure.row
            if row.id in self.pending and self.may_mark(row.bucket, epochs[row.bucket]):
                self.assert_owner(row, epochs)
                self.pending[row.id] = Pending(
                    row._replace(attempts=failure.attempts), self.now + int(failure.wait_s), failure.is_parked
                )
        owner.current = (self.without_held(owner.ahead[0], done.held_keys), owner.ahead[1])
        owner.ahead, owner.outcomes = ((), {}), None

    def assert_owner(self, row: Row, epochs: dict[int, int]) -> None:
        assert self.leases[row.bucket].epoch == epochs[row.bucket], f"{row.id} marked by a relay that lost its bucket"

    @rule(name=st.sampled_from(OWNERS))
    def crash(self, name: str) -> None:
        self.owners[name] = Owner()

    @precondition(lambda self: any(each.is_parked for each in self.pending.values()))
    @rule()
    def requeue_parked(self) -> None:
        for each in self.pending.values():
            if each.is_parked:
                each.row, each.next_try, each.is_parked = each.row._replace(attempts=0), None, False

    @invariant()
    def nothing_leaves_the_outbox_unsent(self) -> None:
        landed = {row.id for row in self.log}
        lost = [row.id for row in self.written if row.id not in self.pending and row.id not in landed]
        assert not lost, f"lost: {lost}"

    @invariant()
    def no_event_of_a_key_lands_before_an_earlier_one(self) -> None:
        for key in KEYS:
            firsts = list(dict.fromkeys(row.id for row in self.log if row.envelope.key == key))
            assert firsts == sorted(firsts), f"{key} landed as {firsts}"

    @invariant()
    def what_left_of_a_key_is_always_its_oldest_part(self) -> None:
        for key in KEYS:
            is_pending = [row.id in self.pending for row in self.written if row.envelope.key == key]
            assert is_pending == sorted(is_pending), f"{key} has a hole: {is_pending}"


class WithoutFence(RelayModel):
    def may_mark(self, bucket: int, epoch: int) -> bool:
        return True


class WithoutPrefix(RelayModel):
    def settle(self, rows: Sequence[Row], outcomes: Sequence[Outcome]) -> Settlement:
        confirmed = tuple(row for row, outcome in zip(rows, outcomes, strict=True) if outcome.is_confirmed)
        return replace(super().settle(rows, outcomes), cleared=confirmed)


class WithoutKeyHold(RelayModel):
    def without_held(self, rows: Sequence[Row], held: Set[str]) -> Sequence[Row]:
        return rows


def run(model: type[RelayModel], **changed: Any) -> None:
    rules = settings(
        max_examples=changed.pop("examples", 150),
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **changed,
    )
    # Hypothesis calls the class as a factory; a seed printed with the test's name makes a failure repeatable.
    run_state_machine_as_test(seed(20260101)(model), settings=rules)


def test_no_order_of_steps_loses_reorders_or_marks_without_the_lease() -> None:
    run(RelayModel)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WithoutFence, "lost its bucket"),
        (WithoutPrefix, "has a hole"),
        (WithoutKeyHold, "landed as|has a hole"),
    ],
)
def test_the_model_finds_the_bug_when_a_rule_is_taken_out(model: type[RelayModel], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        # Found is enough: making the example small would take most of the time.
        run(model, examples=3_000, phases=[Phase.generate])
