"""What every real service can do, whoever runs it: start, be waited for, be killed, paused, resumed, stopped."""

from pathlib import Path
from typing import Protocol, runtime_checkable


class ServerFailed(Exception):
    """A service could not be started, reached or controlled; the message names it and says what to do next."""


class NotControlled(ServerFailed):
    """This provider does not own the process, so it cannot be killed, paused, resumed or stopped from here."""

    def __init__(self, name: str, action: str) -> None:
        super().__init__(f"the testbed cannot {action} {name} as it runs here; use another --provider or --broker")


def stop_to_start_again(server: "Server") -> None:
    """`stop` leaves a service that is not ours running, without a word: as a fault that would be none.

    Raises NotControlled.
    """
    server.stop()
    if server.is_running():
        raise NotControlled(server.name, "stop")


class Server(Protocol):
    """One service (PostgreSQL, Kafka, RabbitMQ) with its own folder, ports and log. State lives in the folder,
    so another process can take it up again (`attach`)."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def url(self) -> str:
        """What a client needs: DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS or RABBITMQ_URL."""

    @property
    def version(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def start(self) -> None:
        """Start with the data that is there (made on the first start) and return when it answers a real request."""

    def wait_ready(self, timeout_s: float) -> None:
        """Return when a real query or publish succeeds; raise ServerFailed with the log's last lines otherwise."""

    def kill(self) -> None:
        """SIGKILL to the very process (java, beam.smp, postmaster) and wait until it is gone."""

    def pause(self) -> None:
        """SIGSTOP the very process (PostgreSQL: its whole group)."""

    def resume(self) -> None: ...

    def stop(self) -> None:
        """Orderly, then by force after a while; idempotent; nothing of it is left running."""

    def pids(self) -> list[int]:
        """Every process that belongs to it now, for resource samples."""

    def is_running(self) -> bool: ...


@runtime_checkable
class HasAlarms(Protocol):
    """A broker that blocks its publishers while memory or disk runs low, and can be made to."""

    def memory_alarm(self, on: bool) -> None: ...

    def disk_alarm(self, on: bool) -> None: ...
