"""Which client a link is made with: the one place where the two are chosen between, and checked before use."""

from importlib.metadata import version
from types import FunctionType

import aiormq
import pika

from brokers.rabbitmq.aio_pika_link import NEEDED_OF_AIORMQ, AioPikaLink
from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.links import Link, LinkLost, Listener
from brokers.rabbitmq.pika_link import NEEDED_OF_PIKA, PikaLink
from core.messaging.errors import BrokerError


def check_client(config: RabbitConfig) -> None:
    """Raises BrokerError if the installed client has not what its link takes from its inside."""
    if config.client == "pika":
        _check("pika", (pika.SelectConnection,), NEEDED_OF_PIKA)
    else:
        _check("aiormq", (aiormq.Connection, aiormq.Channel), NEEDED_OF_AIORMQ)


def _check(client: str, kinds: tuple[type, ...], needed: tuple[str, ...]) -> None:
    """Methods by the classes' own names; attributes by the names that their code uses."""
    found: set[str] = set()
    for kind in kinds:
        functions = [each for owner in kind.__mro__ for each in vars(owner).values() if isinstance(each, FunctionType)]
        found.update(dir(kind), *(function.__code__.co_names for function in functions))
    if lacking := [name for name in needed if name not in found]:
        raise BrokerError(
            f"{client} {version(client)} does not have {', '.join(lacking)}, which this adapter needs. "
            f"Install the {client} that requirements.lock names."
        )


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
