"""Which client a link is made with: the one place where the two are chosen between."""

from brokers.rabbitmq.aio_pika_link import AioPikaLink
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.links import Link, LinkLost, Listener
from brokers.rabbitmq.pika_link import PikaLink


def new_link(config: RabbitConfig, listener: Listener) -> Link:
    if config.client == "pika":
        return PikaLink(config, listener)
    return AioPikaLink(config, listener)


def opened_link(config: RabbitConfig, listener: Listener, confirms: bool, timeout_s: float) -> Link:
    """Raises LinkLost; nothing stays open then."""
    link = new_link(config, listener)
    try:
        link.open(confirms, timeout_s)
    except LinkLost:
        link.abort()
        raise
    return link
