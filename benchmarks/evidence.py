"""Did a fault leave the mark that its kind leaves? One that nobody felt proves nothing and does not count."""

from pathlib import Path
from typing import Any

from benchmarks.in_flight import dead_letters, in_flight_during, unknown_outcomes
from faults.catalogue import Fault

BEFORE_S, AFTER_S = 1.0, 15.0
"""How long before a fault's instant and after its end an unknown outcome may be its work; the end by more than the
publish time-out."""


def evidence_of(fault: Fault, history: Path, from_ns: int, to_ns: int) -> dict[str, Any]:
    """What run.json tells of a fault that was done between two instants: `evidence`, and where it was not felt
    `missed`; of faults that publishes can feel `unknown_outcomes` too."""
    if fault.mark == "done":
        return {"evidence": fault.sentence}
    if fault.mark == "letters":
        letters = dead_letters(history, from_ns)
        missed = {} if letters else {"missed": "it struck, but nothing was given up"}
        return {"evidence": f"{letters} deliveries were given up", **missed}
    in_flight = in_flight_during(history, from_ns, to_ns)
    unanswered = in_flight_during(history, to_ns, to_ns)
    unknown = unknown_outcomes(history, from_ns - int(BEFORE_S * 1e9), to_ns + int(AFTER_S * 1e9))
    felt = {"publishes": in_flight, "unknown": unknown, "unanswered": unknown + unanswered}
    return {
        "evidence": f"{in_flight} messages were in flight during it, {unanswered} still at its end, "
        f"{unknown} outcomes were unknown",
        "unknown_outcomes": unknown,
        **({} if felt[fault.mark] else {"missed": "it struck, but no publish felt it"}),
    }
