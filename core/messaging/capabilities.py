"""What a broker profile can do: declared, shown in the report, proven by the contract tests; never a silent skip."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Capabilities:
    profile: str
    """E.g. `kafka`, `rabbitmq-quorum-pika`, `memory`."""
    survives_kill: bool
    """A confirmed message survives SIGKILL of the broker's process."""
    replay: bool
    """A new group sees old messages, and a group can go back to the beginning or an instant."""
    retains_after_ack: bool
    """What was acked by all can still be read by an audit reader."""
    groups: bool
    """Groups each get all; members of one share the lanes and take over from a dead one."""
    spreads_lanes: bool
    """The lanes of a group spread over its members, also over one that joins later."""
    marks_redelivery: bool
    """`Delivery.redelivered` is told by the broker."""
    filters_types: bool
    """The broker delivers only the event types a group subscribes to (else the subscriber drops the rest)."""
    hands_over_unknown_types: bool
    """A type that no route knows is handed to each group of its topic, and so ends in its dead letters with the reason.
    Else no queue takes it: the broker returns it to a publisher that asks for that, and drops it otherwise."""
    refuses_unroutable: bool
    """A message that would reach no queue is REFUSED."""
    partial_refusal: bool
    """One group's queue can refuse while others accept: the outcome is UNKNOWN."""
    fsynced_tier: bool
    """Has a durability tier in which a confirm means written to disk."""
    delay: bool
    """`Lag.delay_s` is known."""

    def flags(self) -> dict[str, bool]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "profile"}
