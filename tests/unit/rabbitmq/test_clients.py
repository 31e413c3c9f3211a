"""A client library that lacks what a link takes from its inside is refused before anything connects."""

from typing import Any

import aiormq
import pika
import pytest

from brokers.rabbitmq import RabbitConfig, connect
from core.messaging.errors import BrokerError
from core.messaging.topology import Topology


def connected(client: Any) -> object:
    return connect(RabbitConfig("amqp://127.0.0.1:1/", client=client), Topology({}, {}))


@pytest.mark.parametrize("client", ["pika", "aio-pika"])
def test_the_installed_clients_are_taken(client: str) -> None:
    assert connected(client)


def test_a_pika_without_a_private_method_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pika.connection.Connection, "_process_frame")
    with pytest.raises(BrokerError, match=r"pika 1\.\S+ does not have _process_frame, which this adapter needs"):
        connected("pika")


def test_a_pika_whose_code_knows_no_frame_buffer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pika, "SelectConnection", type("OtherConnection", (), {}))
    with pytest.raises(BrokerError, match="_frame_buffer, _transport"):
        connected("pika")


def test_an_aiormq_whose_connection_fills_no_queue_of_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiormq, "Connection", type("OtherConnection", (), {}))
    with pytest.raises(BrokerError, match=r"aiormq \S+ does not have frames, put"):
        connected("aio-pika")
