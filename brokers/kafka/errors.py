"""The client's errors in the port's words, translated here only; and one log line for each change of the connection."""

import logging
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException

from core.messaging.errors import BrokerError, BrokerUnavailable

log = logging.getLogger(__name__)


class WrongSetting(ValueError):
    """A setting that cannot work: named, with its value and the mend."""

    def __init__(self, name: str, value: object, mend: str) -> None:
        super().__init__(f"Kafka setting {name}={value} cannot be used: {mend}")


class GroupBusy(BrokerError):
    def __init__(self, group: str) -> None:
        super().__init__(f"group {group} still has members, its position was not moved: stop its subscribers first")


SILENCE = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NETWORK_EXCEPTION,
    }
)
"""Nobody answered, or not yet: asking again may help."""


def error_of(caught: KafkaException) -> KafkaError:
    error = caught.args[0]
    assert isinstance(error, KafkaError)
    return error


def translated(
    caught: KafkaException, address: str, waited_s: float, without_secrets: Callable[[str], str]
) -> BrokerError:
    """What to raise (`from` the caught one) where an error is an exception and not an outcome."""
    error = error_of(caught)
    said = without_secrets(f"{error.name()}: {error.str()}")
    if error.code() in SILENCE:
        return BrokerUnavailable("Kafka", address, waited_s, said)
    return BrokerError(f"Kafka at {address} answered {said}")


class Connection:
    """Whether the broker answers, as last seen by one client; logs the changes and nothing else."""

    def __init__(self, client: str, address: str, without_secrets: Callable[[str], str]) -> None:
        self._client = client
        self._address = address
        self._without_secrets = without_secrets
        self.is_lost = False
        self._told: int | None = None

    def on_error(self, error: KafkaError) -> None:
        """The client's `error_cb`: it reconnects by itself, so this only speaks of it, once."""
        if (error.code() in SILENCE and self.is_lost) or error.code() == self._told:
            return
        self._told = error.code()
        self.is_lost = error.code() in SILENCE
        log.warning(
            "broker connection lost, reconnecting" if self.is_lost else "broker client error",
            extra={"client": self._client, "broker": self._address, "error": self._without_secrets(error.str())},
        )

    def seen(self) -> None:
        """The broker answered."""
        self._told = None
        if self.is_lost:
            self.is_lost = False
            log.info("broker connection back", extra={"client": self._client, "broker": self._address})


def quiet_logger() -> logging.Logger:
    """Where librdkafka's own lines go: a line a retry is not a change of state, `Connection` speaks of those."""
    logger = logging.getLogger("brokers.kafka.librdkafka")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
