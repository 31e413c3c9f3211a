"""Every fault by name: what it strikes, how it is injected and healed. A fault is two functions and a sentence.

`inject` and `heal` return at the instant of true effect. What they act on (`Lab`) is handed in: real servers, real
processes and the proxy before the broker; nothing here starts or finds any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from faults.network import Proxy, Rule, bandwidth, black_hole, latency, lost_confirm, reset
from servers.lifecycle import HasAlarms, Server, stop_to_start_again

LATENCY_S = 0.1
BANDWIDTH_BYTES_PER_S = 200_000
STORM_MESSAGES = 1_000


class Lab(Protocol):
    """The running system under test, as far as faults may touch it."""

    @property
    def broker_server(self) -> Server: ...

    @property
    def database_server(self) -> Server: ...

    @property
    def network(self) -> Proxy:
        """What stands between every role and the broker. Raises FaultMissed where nothing does."""

    def kill_role(self, role: str) -> None:
        """SIGKILL one process of the role (`api`, `relay`, `consumer`); it is started again by `restart_role`."""

    def restart_role(self, role: str) -> None: ...

    def pause_role(self, role: str) -> None:
        """SIGSTOP one process of the role."""

    def slow_role(self, role: str) -> None:
        """Let every process of the role run only a tenth of the time, until `resume_role`."""

    def resume_role(self, role: str) -> None: ...

    def roll_role(self, role: str) -> None:
        """End every process of the role in good order and start it again, one after the other."""

    def publish_poison(self) -> None:
        """Commit an event that no group can read, as a writer with a bug would."""

    def publish_again(self, messages: int) -> None:
        """Hand events that were published before to the broker once more, at most so many, the newest ones."""

    def arm_crash(self, role: str, step: str) -> None:
        """Start one process of the role anew with a crash point at `step`; return when it has died there.

        Raises FaultMissed if it did not die in time.
        """


class FaultMissed(Exception):
    """The planned damage was not done: the run proves nothing about it."""


Mark = Literal["done", "publishes", "unknown", "unanswered", "letters"]
"""What shows that a fault was felt: nothing but that it was done; publishes in flight while it lasted; publish
outcomes that it made unknown; these, or publishes that had to wait for its end (a client that asks again by itself may
be answered then); dead letters."""


@dataclass(frozen=True)
class Fault:
    name: str
    target: str
    sentence: str
    inject: Callable[[Lab], None]
    heal: Callable[[Lab], None]
    mark: Mark = "done"
    lasts_s: tuple[float, float] = (0.0, 0.0)
    """Shortest and longest time a random schedule lets it last."""
    needs: str = ""
    """The capability of broker and provider without which it cannot be done: `alarms`, `proxy`, `relay`."""
    is_drawn: bool = True
    """A random schedule may draw it: whatever it hits, the default strategies keep every promise of the contract."""


def _nothing(_: Lab) -> None:
    return None


def _ring(lab: Lab, alarm: Literal["memory", "disk"], on: bool) -> None:
    server = lab.broker_server
    if not isinstance(server, HasAlarms):
        raise FaultMissed(f"{server.name} has no {alarm} alarm")
    (server.memory_alarm if alarm == "memory" else server.disk_alarm)(on)


def _reset(lab: Lab) -> None:
    if lab.network.connections == 0:
        raise FaultMissed("no connection to the broker was open")
    lab.network.apply(reset())


def _heal_network(lab: Lab) -> None:
    lab.network.heal()


def _network(name: str, sentence: str, rule: Rule, mark: Mark, lasts_s: tuple[float, float]) -> Fault:
    return Fault(
        name, "network", sentence, lambda lab: _apply(lab, rule), _heal_network, mark, lasts_s=lasts_s, needs="proxy"
    )


def _apply(lab: Lab, rule: Rule) -> None:
    lab.network.apply(rule)


_FAULTS = (
    Fault(
        "sigkill",
        "broker",
        "SIGKILL to the broker's very process (java, beam.smp), later started again with its data",
        lambda lab: lab.broker_server.kill(),
        lambda lab: lab.broker_server.start(),
        "unknown",
        lasts_s=(0.0, 4.0),
    ),
    Fault(
        "restart",
        "broker",
        "the broker is stopped in good order and started again",
        lambda lab: stop_to_start_again(lab.broker_server),
        lambda lab: lab.broker_server.start(),
        "publishes",
        lasts_s=(0.0, 2.0),
    ),
    Fault(
        "pause",
        "broker",
        "SIGSTOP to the broker's process: it keeps its connections and answers nothing",
        lambda lab: lab.broker_server.pause(),
        lambda lab: lab.broker_server.resume(),
        "publishes",
        lasts_s=(1.0, 8.0),
    ),
    *(
        Fault(
            f"{alarm}-alarm",
            "broker",
            f"the broker's {alarm} alarm rings: it takes no publish until there is room again",
            lambda lab, alarm=alarm: _ring(lab, alarm, on=True),  # type: ignore[misc]
            lambda lab, alarm=alarm: _ring(lab, alarm, on=False),  # type: ignore[misc]
            "publishes",
            lasts_s=(1.0, 8.0),
            needs="alarms",
        )
        for alarm in ("memory", "disk")
    ),
    _network(
        "latency",
        f"every byte between clients and broker travels {LATENCY_S * 1000:g} ms longer, each way",
        latency(LATENCY_S),
        "publishes",
        (2.0, 8.0),
    ),
    _network(
        "bandwidth",
        f"every connection to the broker carries {BANDWIDTH_BYTES_PER_S:,} bytes a second at most, each way",
        bandwidth(BANDWIDTH_BYTES_PER_S),
        "publishes",
        (2.0, 8.0),
    ),
    Fault(
        "reset",
        "network",
        "every open connection to the broker is cut by a TCP reset",
        _reset,
        _heal_network,
        needs="proxy",
    ),
    _network(
        "black-hole",
        "silence between clients and broker, both ways; what was sent arrives when it ends",
        black_hole(),
        "publishes",
        (1.0, 8.0),
    ),
    _network(
        "lost-confirm",
        "what clients send reaches the broker, and none of its answers ever comes back",
        lost_confirm(),
        "unanswered",
        (1.0, 8.0),
    ),
    Fault(
        "database-restart",
        "database",
        "SIGKILL to PostgreSQL, later started again with its data",
        lambda lab: lab.database_server.kill(),
        lambda lab: lab.database_server.start(),
        lasts_s=(0.0, 3.0),
    ),
    *(
        Fault(
            f"{role}-kill",
            role,
            f"SIGKILL to one {role} process at any instant, later started again",
            lambda lab, role=role: lab.kill_role(role),  # type: ignore[misc]
            lambda lab, role=role: lab.restart_role(role),  # type: ignore[misc]
            lasts_s=(0.0, 5.0),
            needs="relay" if role == "relay" else "",
        )
        for role in ("api", "relay", "consumer")
    ),
    Fault(
        "api-crash-after-commit",
        "api",
        "the API dies by SIGKILL after a command is committed and before anything is published (P1)",
        lambda lab: lab.arm_crash("api", "committed"),
        lambda lab: lab.restart_role("api"),
    ),
    Fault(
        "api-crash-before-commit",
        "api",
        "the API dies by SIGKILL after the broker confirmed an event and before its command is committed (P2); "
        "only an API that publishes by itself can",
        lambda lab: lab.arm_crash("api", "confirmed"),
        lambda lab: lab.restart_role("api"),
        is_drawn=False,
    ),
    Fault(
        "relay-crash",
        "relay",
        "the relay dies by SIGKILL after the broker confirmed a batch and before its rows are cleared (P3)",
        lambda lab: lab.arm_crash("relay", "confirmed"),
        lambda lab: lab.restart_role("relay"),
        needs="relay",
    ),
    Fault(
        "consumer-crash-after-claim",
        "consumer",
        "a consumer dies by SIGKILL with an event recorded as handled and its effect not begun (P6)",
        lambda lab: lab.arm_crash("consumer", "claimed"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "consumer-crash-before-commit",
        "consumer",
        "a consumer dies by SIGKILL with its effects written and not committed",
        lambda lab: lab.arm_crash("consumer", "effected"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "consumer-crash-after-commit",
        "consumer",
        "a consumer dies by SIGKILL after its effects are committed and before it acks (P7)",
        lambda lab: lab.arm_crash("consumer", "applied"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "consumer-crash-after-ack",
        "consumer",
        "a consumer dies by SIGKILL right after it acked; one that acks first has no effect written then (P8)",
        lambda lab: lab.arm_crash("consumer", "acked"),
        lambda lab: lab.restart_role("consumer"),
    ),
    Fault(
        "consumer-pause",
        "consumer",
        "SIGSTOP to one consumer process; others may take over its lanes, and then it wakes",
        lambda lab: lab.pause_role("consumer"),
        lambda lab: lab.resume_role("consumer"),
        lasts_s=(1.0, 8.0),
    ),
    Fault(
        "consumer-slow",
        "consumer",
        "every consumer process runs a tenth of the time only",
        lambda lab: lab.slow_role("consumer"),
        lambda lab: lab.resume_role("consumer"),
        lasts_s=(2.0, 8.0),
    ),
    Fault(
        "consumer-roll",
        "consumer",
        "every consumer process is ended in good order and started again, one after the other",
        lambda lab: lab.roll_role("consumer"),
        _nothing,
    ),
    Fault(
        "relay-pause",
        "relay",
        "SIGSTOP to the relay, for longer than its lease; it wakes as an owner that no longer is one",
        lambda lab: lab.pause_role("relay"),
        lambda lab: lab.resume_role("relay"),
        lasts_s=(6.0, 11.0),
        needs="relay",
    ),
    Fault(
        "poison",
        "consumer",
        "an event is committed that no group can read",
        lambda lab: lab.publish_poison(),
        _nothing,
        "letters",
        needs="relay",
        is_drawn=False,
    ),
    Fault(
        "duplicate-storm",
        "consumer",
        f"the newest {STORM_MESSAGES:,} published events are handed to the broker once more",
        lambda lab: lab.publish_again(STORM_MESSAGES),
        _nothing,
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
