"""Publish to the store of this process: checks, then one outcome a message, a key stopped at its first lack."""

from collections.abc import Sequence
from time import monotonic

from brokers.memory.config import MemoryConfig
from brokers.memory.store import Record, Store
from core.messaging.envelope import Envelope
from core.messaging.outcomes import Outcome, Status, refused, unknown
from core.messaging.topology import Topology

CLOSED = unknown("the publisher is closed")
HELD_BACK = unknown("not sent: an earlier message of its key was not confirmed")


class MemoryPublisher:
    def __init__(self, config: MemoryConfig, topology: Topology) -> None:
        self._store = config.store
        self._max_bytes = config.max_message_bytes
        self._topology = topology
        self._closed = False

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        store = self._store
        with store.changed:
            silence = self._await_answer(timeout_s)
            if silence is None:
                return self._offer(batch)
            # The time-out, the close or the lost connection came before the answer: some of it may be there, from
            # the front and without a gap, as a broker that reads one connection in order leaves it.
            arrived = 0 if store.is_away or not store.faults.delay_s else store.random.randint(0, len(batch))
            stored = self._offer(batch[:arrived])
            return [outcome if outcome.status is Status.REFUSED else silence for outcome in stored] + [silence] * (
                len(batch) - arrived
            )

    def close(self) -> None:
        with self._store.changed:
            self._closed = True
            self._store.changed.notify_all()

    def _await_answer(self, timeout_s: float) -> Outcome | None:
        """None once the store would answer; else why the batch is UNKNOWN."""
        store = self._store
        deadline = monotonic() + timeout_s
        answer_at = monotonic() + store.faults.delay_s
        connection = store.connection
        while True:
            if self._closed:
                return CLOSED
            if not store.is_away and store.connection != connection:
                return unknown("the connection was lost")
            now = monotonic()
            if not store.is_away and now >= answer_at:
                return None
            if now >= deadline:
                return unknown(f"no answer within {timeout_s:g} s")
            store.changed.wait((deadline if store.is_away else min(deadline, answer_at)) - now)

    def _offer(self, batch: Sequence[Envelope]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        stopped: set[tuple[str, str]] = set()
        for envelope in batch:
            lane = (envelope.topic, envelope.key)
            outcome = HELD_BACK if lane in stopped else self._offer_one(envelope)
            if not outcome.is_confirmed:
                stopped.add(lane)
            outcomes.append(outcome)
        return outcomes

    def _offer_one(self, envelope: Envelope) -> Outcome:
        size_bytes = len(envelope.data) + sum(len(name) + len(value) for name, value in envelope.headers)
        if size_bytes > self._max_bytes:
            return refused(f"{size_bytes} bytes are more than the limit of {self._max_bytes} bytes")
        if not reaches_a_queue(self._topology, envelope):
            return refused(f"{envelope.type} in {envelope.topic} reaches no queue")
        return self._store.offer(self._topology.prefix + envelope.topic, record_of(envelope, self._store))


def record_of(envelope: Envelope, store: Store) -> Record:
    return Record(envelope.key, envelope.type, store.now(), envelope, body=envelope.data, wire_headers=envelope.headers)


def reaches_a_queue(topology: Topology, envelope: Envelope) -> bool:
    """Whether a group takes this type of this topic, or the audit log does."""
    route = topology.routes.get(envelope.type)
    if route is None or route.topic != envelope.topic:
        return False
    return topology.audit or any(envelope.type in types for types in topology.subscriptions.values())
