"""What each broker is said to be strong in (S0.43), tried on both with their plain clients: routing, request and reply.

The shop needs neither, so its port offers neither: it routes by type alone and asks nobody. The article also lists SQS
and Redis Pub/Sub, which forgets what nobody hears; both are out of this testbed's scope. `pytest -rP` prints the code
lines that each broker took.
"""

import inspect
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from time import monotonic
from typing import Any, NamedTuple

import pika
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from servers.lifecycle import Server

WITHIN_S = 60.0
SELLERS = ("seller-1", "seller-2", "seller-3")
STATUSES = ("PAID", "SHIPPED", "DELIVERED")
TIMES = 10
"""How often each seller reports each status."""
CHANGES = [(seller, status) for _ in range(TIMES) for seller in SELLERS for status in STATUSES]
WANTED = {"of seller-1": ("seller-1", "*"), "delivered": ("*", "DELIVERED"), "one of one": ("seller-2", "SHIPPED")}
"""Subscriber -> seller and status; a star: any."""


class Handed(NamedTuple):
    wanted: list[tuple[str, str]]
    wasted: int
    """Handed over and thrown away by the subscriber."""


@contextmanager
def kafka_topics(url: str, *names: str) -> Iterator[None]:
    """One partition each."""
    admin = AdminClient({"bootstrap.servers": url})
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        made.result(20)
    try:
        yield
    finally:
        for gone in admin.delete_topics(list(names)).values():
            gone.result(20)


def kafka_reader(url: str, topic: str) -> Consumer:
    """From the topic's beginning, without a group."""
    reader = Consumer({"bootstrap.servers": url, "group.id": "nobody", "enable.auto.commit": False})
    reader.assign([TopicPartition(topic, 0, 0)])
    return reader


def next_of(reader: Consumer) -> Message:
    give_up_at = monotonic() + WITHIN_S
    while monotonic() < give_up_at:
        message = reader.poll(0.1)
        if message is not None and message.error() is None:
            return message
    raise AssertionError("no message came")


def routed_by_rabbitmq(url: str, name: str) -> dict[str, Handed]:
    """The broker compares: a subscriber is handed what its pattern names."""
    found: dict[str, Handed] = {}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.exchange_declare(name, "topic", auto_delete=True)
        queues = {who: channel.queue_declare("", exclusive=True).method.queue for who in WANTED}
        for who, pattern in WANTED.items():
            channel.queue_bind(queues[who], name, ".".join(pattern))
        for change in CHANGES:
            channel.basic_publish(name, ".".join(change), b"{}")
        for who, pattern in WANTED.items():
            handed: list[tuple[str, str]] = []
            while (arrival := channel.basic_get(queues[who], auto_ack=True))[0] is not None:
                seller, status = arrival[0].routing_key.split(".")
                handed.append((seller, status))
            wanted = [change for change in handed if is_wanted(change, pattern)]
            found[who] = Handed(wanted, len(handed) - len(wanted))
    return found


def routed_by_kafka(url: str, name: str) -> dict[str, Handed]:
    """The subscriber compares: it is handed everything there is."""
    found: dict[str, Handed] = {}
    with kafka_topics(url, name):
        producer = Producer({"bootstrap.servers": url, "acks": "all"})
        for seller, status in CHANGES:
            producer.produce(name, b"{}", seller, headers={"status": status})
        assert producer.flush(WITHIN_S) == 0
        for who, pattern in WANTED.items():
            reader = kafka_reader(url, name)
            handed = [change_of(next_of(reader)) for _ in CHANGES]
            reader.close()
            wanted = [change for change in handed if is_wanted(change, pattern)]
            found[who] = Handed(wanted, len(handed) - len(wanted))
    return found


def change_of(message: Any) -> tuple[str, str]:
    return message.key().decode(), dict(message.headers())["status"].decode()


def is_wanted(change: tuple[str, str], pattern: tuple[str, str]) -> bool:
    return all(wanted in ("*", said) for said, wanted in zip(change, pattern, strict=True))


ALSO: Mapping[str, tuple[Callable[..., Any], ...]] = {"kafka": (kafka_topics, kafka_reader, next_of), "rabbitmq": ()}
"""What these tests needed besides, counted with the code lines."""

ROUTED: Mapping[str, Callable[[str, str], dict[str, Handed]]] = {
    "kafka": routed_by_kafka,
    "rabbitmq": routed_by_rabbitmq,
}


@pytest.mark.row("S0.43")
def test_status_changes_reach_who_asked_for_their_seller_and_status_and_only_on_rabbitmq_nobody_else(
    broker_server: Server,
) -> None:
    route = ROUTED[broker_server.name]
    found = route(broker_server.url, f"changes-{secrets.token_hex(4)}")
    assert {who: sorted(handed.wanted) for who, handed in found.items()} == {
        who: sorted(change for change in CHANGES if is_wanted(change, pattern)) for who, pattern in WANTED.items()
    }
    # Of nine kinds each subscriber wants three, three and one.
    assert [len(handed.wanted) for handed in found.values()] == [3 * TIMES, 3 * TIMES, TIMES]
    expected = [6 * TIMES, 6 * TIMES, 8 * TIMES] if broker_server.name == "kafka" else [0, 0, 0]
    assert [handed.wasted for handed in found.values()] == expected
    print(f"{broker_server.name}: {code_lines(route, *ALSO[broker_server.name])} lines, wasted {expected}")


class Asks(NamedTuple):
    ask: Callable[[int], int]
    """Blocks until its answer is there."""
    wasted: list[str]
    """The names of questions of somebody else whose answers were handed over."""
    close: Callable[[], None]


@contextmanager
def answering_on_rabbitmq(url: str, name: str) -> Iterator[Callable[[], Asks]]:
    """Each asker has a place for answers that is its own, and no queue is made for it."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(name, exclusive=True)

    def answer(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        told = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, b"%d" % double(int(body)), told)

    channel.basic_consume(name, answer, auto_ack=True)
    thread = threading.Thread(target=channel.start_consuming)
    thread.start()

    def asker() -> Asks:
        own = pika.BlockingConnection(pika.URLParameters(url))
        mine, answers, wasted, names = own.channel(), dict[str, int](), list[str](), new_names()

        def take(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
            answers[properties.correlation_id] = int(body)

        mine.basic_consume("amq.rabbitmq.reply-to", take, auto_ack=True)

        def ask(question: int) -> int:
            id_, give_up_at = next(names), monotonic() + WITHIN_S
            asked = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=id_)
            mine.basic_publish("", name, b"%d" % question, asked)
            while id_ not in answers:
                assert monotonic() < give_up_at
                own.process_data_events(time_limit=0.1)
            found = answers.pop(id_)
            wasted.extend(answers)
            answers.clear()
            return found

        return Asks(ask, wasted, own.close)

    try:
        yield asker
    finally:
        connection.add_callback_threadsafe(channel.stop_consuming)
        thread.join(20)
        connection.close()


@contextmanager
def answering_on_kafka(url: str, name: str) -> Iterator[Callable[[], Asks]]:
    """Answers go to one topic, so each asker is handed those of all; a topic for each is not made by the way."""
    stop = threading.Event()
    replies = f"{name}.replies"

    def answer() -> None:
        reader, producer = kafka_reader(url, name), Producer({"bootstrap.servers": url, "linger.ms": 0})
        while not stop.is_set():
            message = reader.poll(0.1)
            if message is not None and message.error() is None:
                producer.produce(replies, b"%d" % double(int(message.value())), message.key())
                producer.poll(0)
        producer.flush(20)
        reader.close()

    thread = threading.Thread(target=answer)

    def asker() -> Asks:
        reader, producer = kafka_reader(url, replies), Producer({"bootstrap.servers": url, "linger.ms": 0})
        wasted, names = list[str](), new_names()

        def ask(question: int) -> int:
            id_ = next(names)
            producer.produce(name, b"%d" % question, id_)
            producer.flush(20)
            while (message := next_of(reader)).key() != id_.encode():
                wasted.append(message.key().decode())
            return int(message.value())

        return Asks(ask, wasted, reader.close)

    with kafka_topics(url, name, replies):
        thread.start()
        try:
            yield asker
        finally:
            stop.set()
            thread.join(20)


def new_names() -> Iterator[str]:
    """Of questions; no two askers give the same."""
    own = secrets.token_hex(4)
    return (f"{own}-{number}" for number in count())


def double(number: int) -> int:
    return 2 * number


ANSWERING: Mapping[str, Callable[[str, str], Any]] = {"kafka": answering_on_kafka, "rabbitmq": answering_on_rabbitmq}
QUESTIONS = range(10)


@pytest.mark.row("S0.43")
def test_two_who_ask_in_turn_get_their_own_answers_and_on_kafka_are_handed_those_of_the_other_too(
    broker_server: Server,
) -> None:
    answering = ANSWERING[broker_server.name]
    with answering(broker_server.url, f"questions-{secrets.token_hex(4)}") as asker:
        first, second = asker(), asker()
        try:
            asked_s = monotonic()
            answers = [(first.ask(number), second.ask(100 + number)) for number in QUESTIONS]
            took_ms = 1_000 * (monotonic() - asked_s) / (2 * len(QUESTIONS))
        finally:
            first.close()
            second.close()
    assert answers == [(2 * number, 2 * (100 + number)) for number in QUESTIONS]
    # The last answer of the second comes after the first has asked its last question.
    expected = (len(QUESTIONS) - 1, len(QUESTIONS)) if broker_server.name == "kafka" else (0, 0)
    assert (len(first.wasted), len(second.wasted)) == expected
    lines = code_lines(answering, *ALSO[broker_server.name])
    print(f"{broker_server.name}: {lines} lines, {took_ms:.1f} ms an answer, wasted {sum(expected)}")


def code_lines(*functions: Callable[..., Any]) -> int:
    lines = [line.strip() for function in functions for line in inspect.getsource(function).splitlines()]
    return sum(bool(line) and not line.startswith(("#", '"""', "@")) for line in lines)
