"""Names that articles derive from a class or match by a star: what gets lost by them, and that here nothing can."""

from collections.abc import Iterator, Sequence
from typing import Any

import pika
import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from ablations.publish.direct import DirectPublisher, NotPublished
from core.inbox.retries import PRESETS
from core.messaging.envelope import Envelope
from core.messaging.errors import UnroutedType
from core.messaging.outcomes import Outcome, Status
from core.messaging.topology import DEAD_LETTER_GROUP, Route, Topology
from servers.lifecycle import Server
from tests.contract.profiles import TOPOLOGY, connect, own
from tests.contract.test_behaviours import event, failure, publish, receive, receive_until, until

PROFILE = {"kafka": "kafka", "rabbitmq": "rabbitmq-quorum-pika"}


class Names:
    """A broker with the suite's topology; `collapsed` knows only names made of the class name, and declares none."""

    def __init__(self, server: Server) -> None:
        self.server, self.is_kafka = server, server.name == "kafka"
        self.topology = own(TOPOLOGY)
        self.broker = self._connect(self.topology)
        route = Route("ordercreated", "order.created") if self.is_kafka else Route("orders", "ordercreated")
        naive = Topology({"OrderCreated": route}, {}, audit=False, prefix=self.topology.prefix)
        self.collapsed = self._connect(naive)
        self.sent = event(1)._replace(topic=route.topic)
        self.opened: list[Any] = []
        if self.is_kafka:
            self.kafka_admin = AdminClient({"bootstrap.servers": server.url})

    def _connect(self, topology: Topology) -> Any:
        return connect(PROFILE[self.server.name], {"url": self.server.url}, topology)

    def open(self, thing: Any) -> Any:
        self.opened.append(thing)
        return thing

    def publish_as_the_articles_do(self) -> bool:
        """Is it confirmed? Kafka has made the topic by itself; RabbitMQ was not asked to return what no queue takes."""
        prefix = self.topology.prefix
        if self.is_kafka:
            name = f"{prefix}ordercreated"
            self.kafka_admin.create_topics([NewTopic(name, 3, 1)])[name].result(20)
            errors: list[KafkaError | None] = []
            producer = Producer({"bootstrap.servers": self.server.url, "acks": "all"})
            producer.produce(name, self.sent.data, self.sent.key, on_delivery=lambda error, _: errors.append(error))
            producer.flush(20)
            return errors == [None]
        with pika.BlockingConnection(pika.URLParameters(self.server.url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            # Raises NackError if it is not confirmed.
            channel.basic_publish(f"{prefix}orders", "ordercreated", self.sent.data, pika.BasicProperties())
        return True

    def take_the_letters_place_away(self) -> None:
        name = f"{self.topology.prefix}orders.DLQ"
        if self.is_kafka:
            self.kafka_admin.delete_topics([name])[name].result(20)
            return
        with pika.BlockingConnection(pika.URLParameters(self.server.url)) as connection:
            # As good as bound with a star: a direct exchange takes it literally.
            for lane in range(3):
                connection.channel().queue_unbind(f"{DEAD_LETTER_GROUP}.{name}.{lane}", name, f"dead-letter.{lane}")

    def end(self) -> None:
        for thing in self.opened:
            thing.close()
        if self.is_kafka:
            name = f"{self.topology.prefix}ordercreated"
            if name in self.kafka_admin.list_topics(timeout=20).topics:
                self.kafka_admin.delete_topics([name])[name].result(20)
        admin = self.broker.admin()
        admin.delete()
        admin.close()


@pytest.fixture
def names(broker_server: Server) -> Iterator[Names]:
    made = Names(broker_server)
    admin = made.broker.admin()
    admin.declare()
    admin.close()
    yield made
    made.end()


@pytest.mark.row("S3.6", "S3.7")
def test_a_name_collapsed_from_the_class_is_confirmed_and_reaches_nobody_and_here_it_is_refused(names: Names) -> None:
    (outcome,) = names.open(names.collapsed.publisher()).publish([names.sent], 10.0)
    assert outcome.status is Status.REFUSED, outcome
    with pytest.raises(UnroutedType, match="OrderCreated"):
        names.collapsed.topology.check()

    assert names.publish_as_the_articles_do()
    dotted = event(2)
    publish(names.open(names.broker.publisher()), [dotted])
    for group in TOPOLOGY.subscriptions:
        subscriber = names.open(names.broker.subscriber(group))
        assert [delivery.envelope for delivery in receive(subscriber, 1)] == [dotted]
        assert not subscriber.receive(10, 0.5)


@pytest.mark.row("S3.22")
def test_a_dead_letter_without_a_place_is_never_confirmed_and_lost(names: Names) -> None:
    publish(names.open(names.broker.publisher()), [event(1)])
    subscriber = names.open(names.broker.subscriber("billing"))
    (delivery,) = receive(subscriber, 1, ack=False)
    names.take_the_letters_place_away()
    assert not subscriber.dead_letter(delivery, failure(), 3.0).is_confirmed
    names.open(names.broker.admin()).declare()
    subscriber.retry(delivery, 0.0)
    (again,) = receive(subscriber, 1, ack=False)
    assert subscriber.dead_letter(again, failure(), 10.0).is_confirmed
    letters = receive_until(names.open(names.broker.subscriber(DEAD_LETTER_GROUP)), bool)
    assert [letter.envelope and letter.envelope.id for letter in letters] == [event(1).id]


NOWHERE = {"kafka": "127.0.0.1:1", "rabbitmq": "amqp://guest:guest@127.0.0.1:1/"}


class ComesBack:
    """A broker that is away for so many tries; the sizes of all of them."""

    def __init__(self, away: Any, there: Any, tries_away: int) -> None:
        self._away, self._there, self._tries_away = away, there, tries_away
        self.tried: list[int] = []

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        self.tried.append(len(batch))
        found: Sequence[Outcome] = (
            self._away.publish(batch, timeout_s)
            if len(self.tried) <= self._tries_away
            else self._there.publish(batch, 15.0)
        )
        return found

    def close(self) -> None:
        return None


@pytest.mark.row("S3.23")
def test_a_publish_is_tried_at_zero_one_and_three_seconds_and_then_its_failure_surfaces(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.publish.direct.TIMEOUT_S", 0.5)
    nobody = connect(PROFILE[names.server.name], {"url": NOWHERE[names.server.name]}, names.topology)
    away, there = names.open(nobody.publisher()), names.open(names.broker.publisher())
    policy = PRESETS["article-s3-rabbitmq"]
    waited_s: list[float] = []
    short, long_ = ComesBack(away, there, 2), ComesBack(away, there, 3)
    DirectPublisher(short, None, policy, waited_s.append).send([event(1), event(2)])
    assert (short.tried, waited_s) == ([2, 2, 2], [1.0, 2.0])
    with pytest.raises(NotPublished, match="1 events after 3 tries"):
        DirectPublisher(long_, None, policy, waited_s.append).send([event(3)])
    assert (long_.tried, waited_s) == ([1, 1, 1], [1.0, 2.0, 1.0, 2.0])
    too_large = event(4)._replace(data=b"x" * 5_000_000)
    with pytest.raises(NotPublished, match="after 1 tries"):
        DirectPublisher(there, None, policy, waited_s.append).send([too_large])
    assert len(waited_s) == 4, "what is refused would be refused again"
    subscriber = names.open(names.broker.subscriber("billing"))
    assert [delivery.envelope for delivery in receive(subscriber, 2)] == [event(1), event(2)]


KEYS = ("order.created.inventory", "order.created.payment", "order.confirmed.notification")


def waiting(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


@pytest.mark.row("S3.21", "S3.22")
@pytest.mark.parametrize(
    ("kind", "bound_by", "found"), [("direct", "*.dlq", 0), ("topic", "*.dlq", 0), ("topic", "#.dlq", 3)]
)
def test_a_dead_letter_exchange_bound_with_a_star_takes_no_letter(
    rabbitmq_server: Server, kind: str, bound_by: str, found: int
) -> None:
    """The names are the article's, which only this test uses; what it leaves is gone with its connection."""
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.exchange_declare("events.exchange", "topic", durable=True)
        channel.exchange_declare("events.dlx", kind, durable=True)
        channel.queue_declare("order.events.dlq", durable=True)
        channel.queue_bind("order.events.dlq", "events.dlx", bound_by)
        exact = channel.queue_declare("", exclusive=True).method.queue
        try:
            for key in KEYS:
                channel.queue_bind(exact, "events.dlx", f"{key}.dlq")
                arguments = {"x-dead-letter-exchange": "events.dlx", "x-dead-letter-routing-key": f"{key}.dlq"}
                channel.queue_declare(f"{key}.queue", durable=True, arguments=arguments)
                channel.queue_bind(f"{key}.queue", "events.exchange", key.rpartition(".")[0])
            for routing_key in ("order.created", "order.confirmed"):
                channel.basic_publish("events.exchange", routing_key, b"poison", mandatory=True)
            for key in KEYS:
                method, _, body = channel.basic_get(f"{key}.queue")
                assert body == b"poison", key
                channel.basic_nack(method.delivery_tag, requeue=False)
            # What is bound by the exact keys tells that the letters were on their way.
            until(lambda: waiting(channel, exact), 3)
            until(lambda: waiting(channel, "order.events.dlq"), found)
        finally:
            for queue in ("order.events.dlq", *(f"{key}.queue" for key in KEYS)):
                channel.queue_delete(queue)
            for exchange in ("events.exchange", "events.dlx"):
                channel.exchange_delete(exchange)
