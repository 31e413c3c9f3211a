"""Every fault by name: what it strikes, how it is injected and healed. A fault is two functions and a sentence.

`inject` and `heal` return at the instant of true effect. What they act on (`Lab`) is handed in: real servers and real
processes; nothing here starts or finds any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from servers.lifecycle import Server


class Lab(Protocol):
    """The running system under test, as far as faults may touch it."""

    @property
    def broker_server(self) -> Server: ...

    @property
    def database_server(self) -> Server: ...

    def kill_role(self, role: str) -> None:
        """SIGKILL one process of the role (`api`, `relay`, `consumer`); it is started again by `restart_role`."""

    def restart_role(self, role: str) -> None: ...

    def pause_role(self, role: str) -> None:
        """SIGSTOP one process of the role."""

    def resume_role(self, role: str) -> None: ...

    def arm_crash(self, role: str, step: str) -> None:
        """Start one process of the role anew with a crash point at `step`; return when it has died there.

        Raises FaultMissed if it did not die in time.
        """


class FaultMissed(Exception):
    """The planned damage was not done: the run proves nothing about it."""


@dataclass(frozen=True)
class Fault:
    name: str
    target: str
    sentence: str
    inject: Callable[[Lab], None]
    heal: Callable[[Lab], None]


def _nothing(_: Lab) -> None:
    return None


def _restart(lab: Lab) -> None:
    lab.broker_server.stop()
    lab.broker_server.start()


_FAULTS = (
    Fault(
        "sigkill",
        "broker",
        "SIGKILL to the broker's very process (java, beam.smp), later started again with its data",
        lambda lab: lab.broker_server.kill(),
        lambda lab: lab.broker_server.start(),
    ),
    Fault("restart", "broker", "the broker is stopped in good order and started again", _restart, _nothing),
    Fault(
        "pause",
        "broker",
        "SIGSTOP to the broker's process: it keeps its connections and answers nothing",
        lambda lab: lab.broker_server.pause(),
        lambda lab: lab.broker_server.resume(),
    ),
    Fault(
        "database-restart",
        "database",
        "SIGKILL to PostgreSQL, later started again with its data",
        lambda lab: lab.database_server.kill(),
        lambda lab: lab.database_server.start(),
    ),
    *(
        Fault(
            f"{role}-kill",
            role,
            f"SIGKILL to one {role} process at any instant, later started again",
            lambda lab, role=role: lab.kill_role(role),  # type: ignore[misc]
            lambda lab, role=role: lab.restart_role(role),  # type: ignore[misc]
        )
        for role in ("api", "relay", "consumer")
    ),
    Fault(
        "relay-crash",
        "relay",
        "the relay dies by SIGKILL after the broker confirmed a batch and before its rows are cleared (P3)",
        lambda lab: lab.arm_crash("relay", "confirmed"),
        lambda lab: lab.restart_role("relay"),
    ),
    Fault(
        "consumer-crash-before-commit",
        "consumer",
        "a consumer dies by SIGKILL with its effects written and not committed",
        lambda lab: lab.arm_crash("consumer", "effected"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "consumer-crash-before-ack",
        "consumer",
        "a consumer dies by SIGKILL after its effects are committed and before it acks (P7)",
        lambda lab: lab.arm_crash("consumer", "applied"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "relay-pause",
        "relay",
        "SIGSTOP to the relay, for longer than its lease; it wakes as an owner that no longer is one",
        lambda lab: lab.pause_role("relay"),
        lambda lab: lab.resume_role("relay"),
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
