"""What the memory twin promises, and what it does not: it lives in one process and dies with it."""

from core.messaging.capabilities import Capabilities

MEMORY = Capabilities(
    profile="memory",
    survives_kill=False,
    replay=True,
    retains_after_ack=True,
    groups=True,
    spreads_lanes=True,
    marks_redelivery=True,
    filters_types=True,
    hands_over_unknown_types=True,
    refuses_unroutable=True,
    partial_refusal=True,
    fsynced_tier=False,
    delay=True,
)
