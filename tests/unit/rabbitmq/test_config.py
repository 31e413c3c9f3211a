"""Settings are refused with name, value and mend; passwords are never shown; the client's errors become ours."""

import pytest
from pika.exceptions import ChannelClosedByBroker

from brokers.rabbitmq.capabilities import capabilities_of
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.errors import Loss, largest_taken_bytes, loss_of, mismatch_of
from core.messaging.errors import TopologyMismatch
from core.messaging.topology import Topology

URL = "amqp://shop:s3cret@10.0.0.1:5673/v"
NOTHING = Topology({}, {}, audit=False)


def test_the_password_is_in_no_text_of_the_config() -> None:
    config = RabbitConfig(URL, "http://shop:s3cret@10.0.0.1:15673")
    assert "s3cret" not in repr(config) + str(config) + config.address + config.profile
    assert config.address == "10.0.0.1:5673/v"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"queue_type": "mirrored"}, "RABBITMQ_QUEUE_TYPE=mirrored is not allowed; use one of quorum, classic, stream"),
        ({"client": "kombu"}, "RABBITMQ_CLIENT=kombu is not allowed; use one of pika, aio-pika"),
        ({"durability": "maybe"}, "DURABILITY=maybe is not allowed"),
        ({"durability": "fsynced", "queue_type": "classic"}, "needs RABBITMQ_QUEUE_TYPE=quorum"),
        ({"publish_window_messages": 0}, "publish_window_messages=0 is not allowed; use 1 or more"),
        ({"url": "http://s3cret@x"}, "RABBITMQ_URL"),
        ({"management_url": "s3cret"}, "RABBITMQ_MANAGEMENT_URL"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        RabbitConfig(**{"url": URL, **settings})  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


def test_only_quorum_queues_promise_what_is_on_disk_and_spread_their_lanes() -> None:
    quorum, classic, stream = (
        capabilities_of(RabbitConfig(URL, queue_type=kind), NOTHING) for kind in ("quorum", "classic", "stream")
    )
    assert [kind.fsynced_tier for kind in (quorum, classic, stream)] == [True, False, False]
    assert [kind.spreads_lanes for kind in (quorum, classic, stream)] == [True, False, False]
    assert [kind.replay for kind in (quorum, classic, stream)] == [False, False, True]


def test_an_unconfirmed_tier_promises_to_survive_nothing() -> None:
    assert not capabilities_of(RabbitConfig(URL, durability="fire-and-forget"), NOTHING).survives_kill


def test_a_differing_declaration_names_the_thing_and_the_argument() -> None:
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'stock.orders.0' in vhost '/': "
        "received the value 'quorum' of type 'longstr' but current is the value 'classic' of type 'longstr'"
    )
    error = mismatch_of(loss_of(ChannelClosedByBroker(406, text)))
    assert isinstance(error, TopologyMismatch)
    assert "queue stock.orders.0 exists with x-queue-type=the value 'classic'" in str(error)


def test_the_brokers_own_message_limit_is_read_from_its_refusal() -> None:
    loss = Loss(406, "PRECONDITION_FAILED - message size 20000000 is larger than configured max size 16777216")
    assert largest_taken_bytes(loss) == 16_777_216
    assert largest_taken_bytes(Loss(404, loss.reason)) is None
