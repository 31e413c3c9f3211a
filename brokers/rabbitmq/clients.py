"""Which client a link is made with: the one place where the two are chosen between, and checked before use."""

from importlib.metadata import version
from types import FunctionType

import pika

from brokers.rabbitmq.config import RabbitConfig
from brokers.rabbitmq.links import Link, LinkLost, Listener
from brokers.rabbitmq.pika_link import PIKA_ATTRIBUTES, PIKA_METHODS, PikaLink
from core.messaging.errors import BrokerError


def check_client(config: RabbitConfig) -> None:
    """Raises BrokerError if the installed client has not what its link takes from its inside."""
    if config.client == "pika":
        _check("pika", pika.SelectConnection, PIKA_METHODS, PIKA_ATTRIBUTES)
    else:
        import aiormq

        from brokers.rabbitmq.aio_pika_link import AIORMQ_ATTRIBUTES

        _check("aiormq", aiormq.Connection, (), AIORMQ_ATTRIBUTES)


def _check(client: str, kind: type, methods: tuple[str, ...], attributes: tuple[str, ...]) -> None:
    """Attributes by the names that the class's own code uses: there is no connection yet that could have them."""
    functions = [each for owner in kind.__mro__ for each in vars(owner).values() if isinstance(each, FunctionType)]
    used = {name for function in functions for name in function.__code__.co_names}
    lacking = [name for name in methods if not hasattr(kind, name)] + [name for name in attributes if name not in used]
    if lacking:
        raise BrokerError(
            f"{client} {version(client)} does not have {', '.join(lacking)}, which this adapter needs. "
            f"Install the {client} that requirements.lock names."
        )


def new_link(config: RabbitConfig, listener: Listener) -> Link:
    if config.client == "pika":
        return PikaLink(config, listener)
    # Here and not above: a process that uses pika starts without the other client.
    from brokers.rabbitmq.aio_pika_link import AioPikaLink

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
