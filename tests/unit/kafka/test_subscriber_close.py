"""A member that closes gives its lanes away while its client still listens, and ends although no broker does."""

from threading import Event
from time import monotonic
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from brokers.kafka import KafkaConfig, connect
from brokers.kafka.subscriber import KafkaSubscriber
from core.messaging.topology import Route, Topology

TOPOLOGY = Topology({"OrderCreated": Route("orders", "order.created")}, {"billing": frozenset({"OrderCreated"})})


class _Client:
    """Stands in for librdkafka's consumer: takes the lane back at the `revokes_at`-th poll after `unsubscribe`."""

    def __init__(self, revokes_at: int) -> None:
        self._polls_left = revokes_at
        self.calls: list[str] = []

    def subscribe(self, _: Any, *, on_revoke: Any, **__: Any) -> None:
        self._on_revoke = on_revoke

    def unsubscribe(self) -> None:
        self.calls.append("unsubscribe")

    def poll(self, _: float) -> None:
        self._polls_left -= 1
        if self._polls_left == 0:
            self._on_revoke(self, [TopicPartition("orders", 0)])
            self.calls.append("revoked")

    def close(self) -> None:
        self.calls.append("close")


def member(client: _Client, monkeypatch: pytest.MonkeyPatch) -> KafkaSubscriber:
    monkeypatch.setattr("brokers.kafka.subscriber.Consumer", lambda *_, **__: client)
    subscriber = connect(KafkaConfig("127.0.0.1:1"), TOPOLOGY).subscriber("billing")
    assert isinstance(subscriber, KafkaSubscriber)
    subscriber._joined()
    subscriber._assigned(client, [TopicPartition("orders", 0)])
    return subscriber


def test_lanes_are_given_away_before_the_client_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    client = _Client(revokes_at=3)
    member(client, monkeypatch).close()
    assert client.calls == ["unsubscribe", "revoked", "close"]


def test_a_client_that_never_takes_its_lanes_back_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brokers.kafka.subscriber.LEAVE_S", 0.05)
    client = _Client(revokes_at=10**9)
    member(client, monkeypatch).close()
    assert client.calls == ["unsubscribe", "close"]


def test_a_client_that_waits_for_a_broker_that_is_gone_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("brokers.kafka.subscriber.CLOSE_S", 0.2)
    client, answered = _Client(revokes_at=1), Event()
    monkeypatch.setattr(client, "close", answered.wait)
    began_s = monotonic()
    member(client, monkeypatch).close()
    assert monotonic() - began_s < 2.0
    assert "left without the broker's answer" in caplog.text
    answered.set()
