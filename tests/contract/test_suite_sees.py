"""Would the suite notice? Each wrapper of the memory twin breaks one promise, and its behaviour must fail."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import tests.contract.test_behaviours as behaviours
from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome, Status, unknown
from core.messaging.ports import Delivery, Failure
from tests.contract.profiles import TOPOLOGY, World, memory_world, own


class Around:
    """Passes everything on to what it wraps but for what a subclass breaks."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def broken(publisher: type[Around] = Around, subscriber: type[Around] = Around, admin: type[Around] = Around) -> type:
    class Broken(Around):
        def publisher(self) -> Any:
            return publisher(self._inner.publisher())

        def subscriber(self, group: str, prefetch_messages: int = 2_000) -> Any:
            return subscriber(self._inner.subscriber(group, prefetch_messages))

        def admin(self) -> Any:
            return admin(self._inner.admin())

    return Broken


class LosesOne(Around):
    """Confirms the last of a batch without sending it."""

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return [*self._inner.publish(batch[:-1], timeout_s), *([CONFIRMED] if batch else [])]


class Reorders(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return list(reversed(self._inner.publish(list(reversed(batch)), timeout_s)))


class ConfirmsUnknown(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        outcomes = self._inner.publish(batch, timeout_s)
        return [CONFIRMED if outcome.status is Status.UNKNOWN else outcome for outcome in outcomes]


class GoesOnAfterRefusal(Around):
    """Sends a key's later messages although an earlier one was not confirmed."""

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return [self._inner.publish([envelope], timeout_s)[0] for envelope in batch]


class CallsUnknownRefused(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        outcomes = self._inner.publish(batch, timeout_s)
        return [Outcome(Status.REFUSED, o.reason) if o.status is Status.UNKNOWN else o for o in outcomes]


class SendsWhatTimedOutLater(Around):
    """A time-out leaves the message in a queue of the client, which sends it after the next one."""

    late: tuple[Envelope, ...] = ()

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        if timeout_s == 1.0:
            self.late = tuple(batch[:1])
            return self._inner.publish([], timeout_s) or [unknown("no answer within 1 s")] * len(batch)
        outcomes = [*self._inner.publish(batch[1:], timeout_s)]
        return [*self._inner.publish(batch[:1], timeout_s), *outcomes]


class PublishesTwice(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        self._inner.publish(batch, timeout_s)
        return self._inner.publish(batch, timeout_s)


class WaitsForEver(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return self._inner.publish(batch, timeout_s + 6.0)


class DropsHeaders(Around):
    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        return self._inner.publish([envelope._replace(headers=()) for envelope in batch], timeout_s)


class AcksFirst(Around):
    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        batch = self._inner.receive(max_messages, timeout_s)
        self._inner.ack(batch)
        return batch


class ForgetsAcks(Around):
    """Redelivers what was acked."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        return None


class AcksAllPolled(Around):
    """An ack of one is taken as an ack of everything handed over, as a commit of the newest position is."""

    handed: tuple[Delivery, ...] = ()

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        batch = self._inner.receive(max_messages, timeout_s)
        self.handed += tuple(batch)
        return batch

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._inner.ack(self.handed)


class ShufflesReceived(Around):
    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        return list(reversed(self._inner.receive(max_messages, timeout_s)))


class RetriesAtTheBack(Around):
    """Gives the failed message back alone: what came after it overtakes it."""

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        if held:
            self._inner.retry(held[0], 0.0, [*held[1:], failed])
        else:
            self._inner.retry(failed, after_s)


class RetriesAtOnce(Around):
    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        self._inner.retry(failed, 0.0, held)


class AcksWithoutALetter(Around):
    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        self._inner.ack([delivery])
        return CONFIRMED


class LettersWithoutAnAck(Around):
    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        outcome: Outcome = self._inner.dead_letter(delivery, failure, timeout_s)
        self._inner._store.reading("billing", delivery.token.place).position = 0
        self._inner._store.reading("billing", delivery.token.place).epoch += 1
        return outcome


class LosesMalformed(Around):
    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        return [d for d in self._inner.receive(max_messages, timeout_s) if d.envelope is not None]


class PassesOverUnknownTypes(Around):
    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        batch = self._inner.receive(max_messages, timeout_s)
        unknown = [d for d in batch if d.envelope and d.envelope.type not in TOPOLOGY.routes]
        self._inner.ack(unknown)
        return [d for d in batch if d not in unknown]


class TakesMoreThanPrefetch(Around):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        inner._prefetch *= 100


class CountsNothing(Around):
    def lag(self, group: str) -> Any:
        return {topic: lag._replace(lag_messages=0, delay_s=0.0) for topic, lag in self._inner.lag(group).items()}


class ForgetsHalfTheLog(Around):
    def read_all(self, *arguments: Any) -> Iterator[Delivery]:
        return iter(list(self._inner.read_all(*arguments))[::2])


class DeclaresAnything(Around):
    def declare(self) -> None:
        return None


class ReplaysNothing(Around):
    def replay(self, *_: Any) -> None:
        return None


B = behaviours
LETTER_OF_EACH_GROUP = (
    B.test_a_type_that_no_route_knows_becomes_a_letter_of_each_group_of_its_topic_and_the_next_message_follows
)
PLANTED: list[tuple[type, Callable[[World], None]]] = [
    (broken(LosesOne), B.test_messages_of_a_key_come_in_the_order_handed_in),
    (broken(LosesOne), B.test_two_publishers_close_at_once_and_what_they_confirmed_is_there),
    (broken(Reorders), B.test_messages_of_a_key_come_in_the_order_handed_in),
    (broken(Reorders), B.test_publishers_of_different_keys_at_once_keep_each_keys_order),
    (broken(Reorders), B.test_nothing_is_lost_and_order_holds_across_a_restart),
    (broken(ConfirmsUnknown), B.test_a_lost_confirm_is_unknown_and_the_message_is_there),
    (broken(ConfirmsUnknown), B.test_silence_is_unknown_in_time_and_nothing_overtakes_afterwards),
    (broken(ConfirmsUnknown), B.test_one_groups_queue_that_refuses_while_others_accept_is_unknown),
    (broken(ConfirmsUnknown), B.test_close_during_publish_gives_every_message_an_outcome_that_is_true),
    (broken(CallsUnknownRefused), B.test_a_lost_confirm_is_unknown_and_the_message_is_there),
    (broken(CallsUnknownRefused), B.test_one_groups_queue_that_refuses_while_others_accept_is_unknown),
    (broken(GoesOnAfterRefusal), B.test_a_message_over_the_limit_is_refused_and_its_key_stops_while_others_go_on),
    (broken(SendsWhatTimedOutLater), B.test_silence_is_unknown_in_time_and_nothing_overtakes_afterwards),
    (broken(PublishesTwice), B.test_members_of_a_group_share_one_copy),
    (broken(WaitsForEver), B.test_silence_is_unknown_in_time_and_nothing_overtakes_afterwards),
    (broken(DropsHeaders), B.test_headers_carry_any_bytes_and_names_beyond_ascii_values),
    (broken(subscriber=AcksFirst), B.test_what_was_acked_does_not_come_again_and_the_rest_does),
    (broken(subscriber=ForgetsAcks), B.test_what_was_acked_does_not_come_again_and_the_rest_does),
    (broken(subscriber=AcksAllPolled), B.test_acks_out_of_order_lose_nothing_that_is_not_acked),
    (broken(subscriber=ShufflesReceived), B.test_messages_of_a_key_come_in_the_order_handed_in),
    (broken(subscriber=ShufflesReceived), B.test_order_and_every_message_survive_members_that_come_and_go),
    (broken(subscriber=RetriesAtTheBack), B.test_a_retried_message_comes_first_of_its_key_and_others_go_on),
    (broken(subscriber=RetriesAtOnce), B.test_a_retry_comes_no_sooner_than_its_delay_and_counts_its_attempts),
    (broken(subscriber=AcksWithoutALetter), B.test_a_dead_letter_carries_its_message_its_reason_and_where_it_came_from),
    (broken(subscriber=LettersWithoutAnAck), B.test_a_dead_letter_is_acked_for_its_group_alone),
    (broken(subscriber=LosesMalformed), B.test_malformed_bytes_are_a_delivery_and_the_next_message_follows),
    (broken(subscriber=PassesOverUnknownTypes), LETTER_OF_EACH_GROUP),
    (broken(subscriber=TakesMoreThanPrefetch), B.test_no_more_than_the_prefetch_waits_unacked),
    (broken(admin=CountsNothing), B.test_lag_counts_what_a_group_has_not_acked),
    (broken(admin=CountsNothing), B.test_delay_is_the_age_of_the_oldest_unacked_message),
    (broken(admin=ForgetsHalfTheLog), B.test_the_audit_reader_sees_all_that_was_acked_in_order),
    (broken(admin=ReplaysNothing), B.test_a_group_is_replayed_from_the_beginning_and_from_an_instant),
]


@pytest.mark.parametrize(
    ("breaks", "behaviour"), PLANTED, ids=[f"{number}-{b.__name__[5:45]}" for number, (_, b) in enumerate(PLANTED)]
)
def test_a_broken_promise_makes_its_behaviour_fail(
    breaks: type, behaviour: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviours, "WITHIN_S", 1.5)
    # The default of receive_until was bound when it was defined.
    monkeypatch.setattr(behaviours.receive_until, "__defaults__", (True, 500, 1.5))
    world = memory_world(own(TOPOLOGY), breaks)
    world.admin().declare()
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            behaviour(world)
    finally:
        world.end()


def test_a_declare_that_does_not_look_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = memory_world(own(TOPOLOGY), broken(admin=DeclaresAnything))
    with pytest.raises(pytest.fail.Exception):
        behaviours.test_a_topology_that_differs_from_what_exists_is_an_error_that_names_it(world)
    world.end()
