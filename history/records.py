"""The shape of every line of `history/*.ndjson`: the one list of steps and fields, for writers and readers.

Described for people in `docs/history.md`. Nothing here imports the core: the judge must not depend on the judged.
"""

from typing import Final

FORMAT: Final = 1
"""Of the line shapes below; written in each file's first line, so that old runs stay readable or are refused."""

ID_STEPS: Final = (
    "requested",
    "answered",
    "committed",
    "leased",
    "attempted",
    "confirmed",
    "cleared",
    "delivered",
    "applied",
    "acked",
)
"""Steps whose lines carry `ids`, in the order of a message's life."""

UNRECORDED_STEPS: Final = frozenset({"claimed", "effected"})
"""Inside an open transaction: crash points hang there, but nothing has happened yet that could be relied on."""

GROUP_STEPS: Final = frozenset({"delivered", "applied", "acked"})
"""Steps that belong to one consumer group."""

OUTCOMES: Final[dict[str, frozenset[str]]] = {
    "answered": frozenset({"acknowledged", "rejected", "unknown"}),
    "confirmed": frozenset({"confirmed", "refused", "unknown"}),
    "applied": frozenset({"applied", "ignored", "dead_lettered"}),
}
"""Steps that say one word an id, and the words they may say."""

PHASES: Final = ("warm_up", "load", "heal", "drain", "check")
PARTS: Final = ("broker", "database", "api", "relay", "consumer", "receiver", "driver")

RECEIVER: Final = "receiver"
"""At broker level: the role that receives and acks, and the consumer group it is alone in."""

EVENT_LINES: Final = frozenset(
    {"opened", "closed", "skipped", "malformed", "phase", "fault", "recovered", "sample", "lag", "outbox"}
)
"""Steps whose lines carry no ids."""
