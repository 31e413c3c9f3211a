"""What a sender makes of each answer, over a link that answers as told."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from brokers.rabbitmq.codec import Outgoing
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import Loss
from brokers.rabbitmq.links import Link, Listener
from brokers.rabbitmq.sender import Sender
from core.messaging.errors import BrokerUnavailable
from core.messaging.outcomes import Outcome, Status

Answer = Callable[["ToldLink", int, Outgoing], None]
C, R, U = Status.CONFIRMED, Status.REFUSED, Status.UNKNOWN


class ToldLink:
    """A link whose broker answers each message with `answer(link, tag, message)` as soon as it is sent."""

    def __init__(self, listener: Listener, answer: Answer, locks: bool = True) -> None:
        self.listener, self._answer, self._locks = listener, answer, locks
        self.sent: list[str] = []
        self.batches: list[list[str]] = []
        self.lock_names: list[str] = []
        self.is_aborted = False

    def open(self, confirms: bool, timeout_s: float) -> None: ...

    def lock(self, name: str, timeout_s: float) -> bool:
        self.lock_names.append(name)
        return self._locks

    def send(self, batch: Sequence[Outgoing]) -> None:
        self.batches.append([message.message_id for message in batch])
        for message in batch:
            self.sent.append(message.message_id)
            self._answer(self, len(self.sent), message)
        self.listener.told()

    def unsent_bytes(self) -> int:
        return 0

    def is_blocked(self) -> bool:
        return False

    def consume(self, queue: str, prefetch_messages: int, arguments: Mapping[str, object], timeout_s: float) -> str:
        raise AssertionError("a sender consumes nothing")

    def ack(self, tags: Sequence[tuple[int, bool]]) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


def ack(link: ToldLink, tag: int, message: Outgoing) -> None:
    link.listener.settled(tag, False, True)


def silence(link: ToldLink, tag: int, message: Outgoing) -> None: ...


def nack(which: str) -> Answer:
    return lambda link, tag, message: link.listener.settled(tag, False, message.message_id != which)


class Rig:
    def __init__(
        self, *answers: Answer, queue_type: str = "quorum", locks: bool = True, window: int = 100, bound: bool = False
    ) -> None:
        self.links: list[ToldLink] = []
        self.redeclared = 0
        self.is_away = False
        self._answers = list(answers)
        self._locks = locks
        config = RabbitConfig("amqp://127.0.0.1/", queue_type=queue_type, publish_window_messages=window)  # type: ignore[arg-type]
        routes = frozenset({("ex", "rk")}) if bound else frozenset[tuple[str, str]]()
        self.sender = Sender(config, "test", self._redeclare, routes, self._open)

    def send(self, *names: str, timeout_s: float = 0.2) -> list[Outcome]:
        """Each name is `<key>.<number>`."""
        keys = [name.partition(".")[0] for name in names]
        bodies = [b"x" * (100 if name.endswith("big") else 1) for name in names]
        messages = [Outgoing("ex", "rk", name, 0, [], body) for name, body in zip(names, bodies, strict=True)]
        return self.sender.send(keys, messages.__getitem__, [None] * len(names), monotonic() + timeout_s)

    def statuses(self, *names: str) -> list[Status]:
        return [outcome.status for outcome in self.send(*names)]

    def _redeclare(self) -> None:
        self.redeclared += 1
        if self.is_away:
            raise BrokerUnavailable("RabbitMQ", "127.0.0.1", 0.1, "the queue's node is down")

    def _open(self, config: RabbitConfig, listener: Listener, confirms: bool, timeout_s: float) -> Link:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        self.links.append(ToldLink(listener, answer, self._locks))
        return self.links[-1]


def test_every_confirmed_message_is_confirmed() -> None:
    rig = Rig(ack)
    assert rig.statuses("a.1", "b.1", "a.2") == [C, C, C]
    assert sorted(rig.links[0].sent) == ["a.1", "a.2", "b.1"]


def test_one_answer_settles_all_up_to_its_tag() -> None:
    def all_at_last(link: ToldLink, tag: int, message: Outgoing) -> None:
        if tag > 1:
            link.listener.settled(tag, True, True)
        else:
            ack(link, tag, message)

    rig = Rig(all_at_last)
    rig.send("prove.1")
    assert rig.statuses("a.1", "b.1", "a.2", "b.2") == [C, C, C, C]


def test_the_messages_of_a_key_are_pipelined_once_their_route_is_proven() -> None:
    rig = Rig(ack)
    rig.send("a.1")
    rig.send("a.2", "a.3", "a.4")
    assert rig.links[0].batches == [["a.1"], ["a.2", "a.3", "a.4"]]


def test_a_classic_queue_is_sent_one_message_of_a_key_while_others_go_on() -> None:
    rig = Rig(ack, queue_type="classic")
    rig.send("a.1", "a.2", "b.1", "b.2")
    assert [sorted(batch) for batch in rig.links[0].batches] == [["a.1", "b.1"], ["a.2", "b.2"]]


def test_a_nacked_message_is_unknown_and_what_follows_in_its_key_is_not_sent() -> None:
    rig = Rig(nack("a.1"), queue_type="classic")
    assert rig.statuses("a.1", "a.2", "b.1", "a.3") == [U, U, C, U]
    assert rig.links[0].sent == ["a.1", "b.1"]


def test_a_returned_message_is_refused_and_what_follows_in_its_key_is_not_sent() -> None:
    def unroutable(link: ToldLink, tag: int, message: Outgoing) -> None:
        if message.message_id == "a.1":
            link.listener.returned("a.1", "rk", "NO_ROUTE")
        ack(link, tag, message)

    rig = Rig(unroutable)
    assert rig.statuses("a.1", "b.1", "a.2") == [R, C, U]
    assert rig.links[0].sent == ["a.1", "b.1"]
    rig.send("c.1")
    assert rig.redeclared == 1


def test_silence_is_unknown_and_the_next_call_has_a_new_link_behind_the_same_fence() -> None:
    rig = Rig(silence, ack)
    assert rig.statuses("a.1", "a.2", "b.1") == [U, U, U]
    assert rig.links[0].is_aborted
    assert rig.statuses("a.1") == [C]
    assert rig.links[0].lock_names == rig.links[1].lock_names


def test_nothing_is_sent_while_the_broker_has_not_ended_the_last_connection() -> None:
    rig = Rig(ack, locks=False)
    assert [outcome.status for outcome in rig.send("a.1")] == [U]
    assert all(link.sent == [] and link.is_aborted for link in rig.links)


def test_a_lost_connection_leaves_what_was_not_answered_unknown() -> None:
    def lose_at_b(link: ToldLink, tag: int, message: Outgoing) -> None:
        if message.message_id == "b.1":
            link.listener.lost(Loss(320, "shut down"))
        else:
            ack(link, tag, message)

    rig = Rig(lose_at_b, ack)
    outcomes = rig.send("a.1", "b.1")
    assert [outcome.status for outcome in outcomes] == [C, U]
    assert "shut down" in outcomes[1].reason


def test_an_exchange_that_is_not_there_refuses_and_is_put_back() -> None:
    def no_exchange(link: ToldLink, tag: int, message: Outgoing) -> None:
        link.listener.lost(Loss(404, "NOT_FOUND - no exchange 'ex' in vhost '/'"))

    rig = Rig(no_exchange, ack)
    assert rig.statuses("a.1", "a.2") == [R, U]
    assert rig.statuses("a.1") == [C]
    assert rig.redeclared == 1


def return_first(link: ToldLink, tag: int, message: Outgoing) -> None:
    if message.message_id == "a.1" and link.sent == ["a.1"]:
        link.listener.returned("a.1", "rk", "NO_ROUTE")
    ack(link, tag, message)


def test_a_message_returned_where_a_queue_was_declared_is_unknown_and_goes_once_it_is_back() -> None:
    rig = Rig(return_first, bound=True)
    assert rig.statuses("a.1", "a.2") == [U, U]
    assert rig.statuses("a.1", "a.2") == [C, C]
    assert rig.redeclared == 1


def test_a_topology_that_cannot_be_put_back_yet_leaves_messages_unknown() -> None:
    rig = Rig(return_first, bound=True)
    rig.send("a.1")
    rig.is_away = True
    (outcome,) = rig.send("a.1")
    assert outcome.status is U
    assert "the queue's node is down" in outcome.reason
    assert rig.redeclared > 1


def test_only_messages_over_the_brokers_limit_are_refused_by_it() -> None:
    def too_large(link: ToldLink, tag: int, message: Outgoing) -> None:
        if message.message_id == "b.big":
            reason = "PRECONDITION_FAILED - message size 100 is larger than configured max size 50"
            link.listener.lost(Loss(406, reason))

    rig = Rig(too_large)
    assert rig.statuses("a.1", "b.big", "c.1") == [U, R, U]


def test_no_more_than_the_window_is_unconfirmed() -> None:
    rig = Rig(silence, window=3)
    rig.send("a.1", "b.1", "c.1", "d.1", "e.1", timeout_s=0.05)
    assert len(rig.links[0].sent) == 3


def test_a_closed_sender_sends_nothing() -> None:
    rig = Rig(ack)
    rig.sender.close()
    assert rig.statuses("a.1") == [U]
    assert rig.links == []
