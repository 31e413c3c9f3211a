"""Every error a broker adapter may raise. Adapters translate their client's errors here, once, keeping the cause.

    BrokerError
      BrokerUnavailable   no answer from any address within the time given; safe to try again
      TopologyMismatch    what exists differs from what is declared; names the object and the argument
      UnroutedType        an event type is published by nobody's table, or subscribed by no group
      NotCapable          this broker profile does not have the asked-for capability

`publish` never raises for a message: each gets an outcome. `receive` never raises for a message: it may be malformed.
"""


class BrokerError(Exception):
    """Base of all adapter errors."""


class BrokerUnavailable(BrokerError):
    def __init__(self, broker: str, address: str, waited_s: float, reason: str) -> None:
        super().__init__(f"{broker} at {address} did not answer within {waited_s:g} s: {reason}")


class TopologyMismatch(BrokerError):
    def __init__(self, thing: str, argument: str, wanted: object, found: object) -> None:
        super().__init__(f"{thing} exists with {argument}={found}, wanted {wanted}. Delete it or change the setting.")


class UnroutedType(BrokerError):
    def __init__(self, event_type: str, reason: str) -> None:
        super().__init__(f"event type {event_type} {reason}")


class NotCapable(BrokerError):
    def __init__(self, profile: str, capability: str) -> None:
        super().__init__(f"{profile} cannot do this: it has no capability {capability!r}")
