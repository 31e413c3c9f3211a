"""Random interleavings against a simple model of the promises, on the memory twin.

The model knows only what the port says: what was confirmed must come, in order per key by first sight; what was acked
does not come again; a retried message comes first of its key with one attempt more; letters come as letters.
"""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brokers.memory import Faults, MemoryConfig, Store, connect
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Status
from core.messaging.ports import Broker, Delivery, Failure
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology

TOPOLOGY = Topology({"Made": Route("things", "thing.made")}, {"g": frozenset({"Made"})}, partitions=2)
KEYS = ("a", "b", "c")
AT = datetime(2026, 1, 1, tzinfo=UTC)
FAILURE = Failure("it failed", 1, AT, AT)


class Promises(RuleBasedStateMachine):
    """One group, up to three members, one publisher that repeats what was not confirmed as the relay does."""

    def connected(self, store: Store) -> Broker:
        return connect(MemoryConfig(store), TOPOLOGY)

    @initialize(seed=st.integers(0, 1000))
    def start(self, seed: int) -> None:
        self.store = Store(seed)
        self.broker = self.connected(self.store)
        self.broker.admin().declare()
        self.publisher = self.broker.publisher()
        self.members = [self.broker.subscriber("g", 5)]
        self.next_sequence = dict.fromkeys(KEYS, 1)
        self.outbox: dict[str, list[Envelope]] = {key: [] for key in KEYS}
        self.confirmed: set[str] = set()
        self.sent: set[str] = set()
        self.seen: dict[str, dict[int, None]] = defaultdict(dict)
        self.in_hand: list[tuple[Any, list[Delivery]]] = []
        self.acked: set[tuple[str, int]] = set()
        self.settled: set[str] = set()
        self.letters: list[str] = []
        self.attempts: dict[str, int] = {}
        self.waiting: set[tuple[int, Any, int, str]] = set()
        """Member, place, epoch and key of what was given back for long."""

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 12))
    def write(self, key: str, count: int) -> None:
        for _ in range(count):
            number = self.next_sequence[key]
            self.next_sequence[key] += 1
            envelope = Envelope(f"{key}{number}", "things", "Made", "/shop/thing", key, number, AT, b"{}")
            self.outbox[key].append(envelope)

    @rule(lost=st.sampled_from([0.0, 0.0, 0.4]), unsent=st.sampled_from([0.0, 0.0, 0.4]))
    def publish(self, lost: float, unsent: float) -> None:
        self.store.faults = Faults(lost_confirm_ratio=lost, lost_request_ratio=unsent)
        batch = [envelope for envelopes in self.outbox.values() for envelope in envelopes]
        outcomes = self.publisher.publish(batch, 1.0)
        self.store.faults = Faults()
        assert len(outcomes) == len(batch)
        self.sent |= {envelope.id for envelope in batch}
        stopped: set[str] = set()
        for envelope, outcome in zip(batch, outcomes, strict=True):
            if outcome.is_confirmed:
                assert envelope.key not in stopped, "overtook"
                self.confirmed.add(envelope.id)
                self.outbox[envelope.key].remove(envelope)
            else:
                assert outcome.status is Status.UNKNOWN
                stopped.add(envelope.key)

    @rule(member=st.integers(0, 2), count=st.integers(1, 6))
    def receive(self, member: int, count: int) -> None:
        self.take(self.members[member % len(self.members)], count)

    def take(self, subscriber: Any, count: int) -> list[Delivery]:
        batch = list(subscriber.receive(count, 0.0))
        assert len(batch) <= count
        for delivery in batch:
            envelope = delivery.envelope
            assert envelope is not None
            assert envelope.id in self.sent, "invented"
            token: Any = delivery.token
            assert (str(token.place), token.offset) not in self.acked, "came again after its ack"
            assert self.waits_at(subscriber, delivery) not in self.waiting, "overtook a message that waits"
            assert delivery.attempts in (0, self.attempts.get(envelope.id, 0))
            self.seen[envelope.key][envelope.sequence or 0] = None
        if batch:
            self.in_hand.append((subscriber, batch))
        return batch

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 50), first=st.integers(0, 2), part=st.integers(1, 6))
    def ack(self, which: int, first: int, part: int) -> None:
        """A part of a batch, also from its middle: the position stays before what is not acked."""
        subscriber, batch = self.in_hand[which % len(self.in_hand)]
        some, rest = batch[first : first + part], batch[:first] + batch[first + part :]
        self.in_hand[which % len(self.in_hand)] = (subscriber, rest)
        self.in_hand = [entry for entry in self.in_hand if entry[1]]
        self.settle(subscriber, some)

    def settle(self, subscriber: Any, batch: list[Delivery]) -> None:
        current = [d for d in batch if self.is_current(subscriber, d)]
        subscriber.ack(batch)
        for delivery in current:
            token: Any = delivery.token
            self.acked.add((str(token.place), token.offset))
            assert delivery.envelope is not None
            self.settled.add(delivery.envelope.id)

    def is_current(self, subscriber: Any, delivery: Delivery) -> bool:
        """Whether its member still owns the lane in the epoch it was handed over: else the ack is passed over."""
        token: Any = delivery.token
        reading = self.store.reading("g", token.place)
        return reading.epoch == token.epoch and not subscriber._closed

    def waits_at(self, subscriber: Any, delivery: Delivery) -> tuple[int, Any, int, str]:
        token: Any = delivery.token
        return id(subscriber), token.place, token.epoch, delivery.key

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 50), for_long=st.booleans())
    def retry(self, which: int, for_long: bool) -> None:
        subscriber, batch = self.in_hand[which % len(self.in_hand)]
        failed = batch[0]
        if self.waits_at(subscriber, failed) in self.waiting:
            return
        held = [d for s, b in self.in_hand if s is subscriber for d in b if d.key == failed.key and d is not failed]
        held = sorted((d for d in held if d.topic == failed.topic), key=lambda d: d.token.offset)  # type: ignore[attr-defined]
        if any(d.token.offset < failed.token.offset for d in held):  # type: ignore[attr-defined]
            return
        current = self.is_current(subscriber, failed)
        subscriber.retry(failed, 600.0 if for_long else 0.0, held)
        gone = {id(d) for d in (failed, *held)}
        self.in_hand = [(s, [d for d in b if id(d) not in gone]) for s, b in self.in_hand]
        self.in_hand = [entry for entry in self.in_hand if entry[1]]
        if not current:
            return
        assert failed.envelope is not None
        self.attempts[failed.envelope.id] = failed.attempts + 1
        if for_long:
            self.waiting.add(self.waits_at(subscriber, failed))
            return
        for _ in range(20):
            batch = self.take(subscriber, 6)
            of_key = [d for d in batch if d.key == failed.key]
            if of_key:
                assert of_key[0].envelope == failed.envelope, "a later message of its key overtook the retried one"
                assert of_key[0].attempts == failed.attempts + 1
                return
            for delivery in batch:
                self.settle(subscriber, [delivery])
            self.in_hand = [(s, [d for d in b if d not in batch]) for s, b in self.in_hand]
            self.in_hand = [entry for entry in self.in_hand if entry[1]]
            if not batch:
                break
        assert not self.has_room(subscriber), "the retried message never came"

    def has_room(self, subscriber: Any) -> bool:
        return sum(len(lane.in_hand) for lane in subscriber._lanes.values()) < 5

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 50))
    def dead_letter(self, which: int) -> None:
        subscriber, batch = self.in_hand[which % len(self.in_hand)]
        delivery = batch.pop(0)
        self.in_hand = [entry for entry in self.in_hand if entry[1]]
        current = self.is_current(subscriber, delivery)
        outcome = subscriber.dead_letter(delivery, FAILURE)
        assert outcome.is_confirmed == current
        if current:
            token: Any = delivery.token
            assert delivery.envelope is not None
            self.acked.add((str(token.place), token.offset))
            self.settled.add(delivery.envelope.id)
            self.letters.append(delivery.envelope.id)

    @precondition(lambda self: len(self.members) < 3)
    @rule()
    def join(self) -> None:
        self.members.append(self.broker.subscriber("g", 5))

    @precondition(lambda self: len(self.members) > 1)
    @rule(which=st.integers(0, 2))
    def leave(self, which: int) -> None:
        gone = self.members.pop(which % len(self.members))
        gone.close()

    @rule()
    def lose_connections(self) -> None:
        self.store.disconnect()

    @invariant()
    def keys_are_seen_in_order(self) -> None:
        for key, sequences in getattr(self, "seen", {}).items():
            assert list(sequences) == list(range(1, len(sequences) + 1)), f"{key}: {list(sequences)}"

    def teardown(self) -> None:
        """The drain: fresh member, everything confirmed was seen, the lag is nothing, the letters are there."""
        if not hasattr(self, "members"):
            return
        for member in self.members:
            member.close()
        last = self.broker.subscriber("g", 500)
        while batch := self.take(last, 100):
            self.settle(last, batch)
        self.keys_are_seen_in_order()
        seen = {f"{key}{sequence}" for key, sequences in self.seen.items() for sequence in sequences}
        assert self.confirmed <= seen, f"lost {self.confirmed - seen}"
        assert self.confirmed <= self.settled, f"never came again: {self.confirmed - self.settled}"
        assert self.broker.admin().lag("g")["things"].lag_messages == 0
        letters = self.broker.subscriber(DEAD_LETTER_GROUP).receive(1000, 0.0)
        assert sorted(d.envelope.id for d in letters if d.envelope) == sorted(self.letters)
        assert all(d.failure == FAILURE and d.failed_group == "g" for d in letters)


Promises.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTheMemoryTwinKeepsItsPromisesInAnyOrderOfEvents = Promises.TestCase
