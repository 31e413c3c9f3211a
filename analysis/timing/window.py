"""The measured window of a run, and the faults in it, in seconds after the load phase began."""

from typing import NamedTuple

from analysis.checkers.facts import Facts


class Band(NamedTuple):
    """One fault, from its true effect to its heal; `to_s` is None for one that was never healed (a crash)."""

    fault: str
    from_s: float
    to_s: float | None


class Window(NamedTuple):
    from_ns: int
    to_ns: int

    @property
    def length_s(self) -> float:
        return (self.to_ns - self.from_ns) / 1e9


def load_window(facts: Facts) -> Window | None:
    """From the load phase to the heal phase; None where the run never loaded."""
    starts = dict(facts.rows("SELECT phase, min(t_ns) FROM said WHERE step = 'phase' GROUP BY phase"))
    begin = starts.get("load")
    if begin is None:
        return None
    later = [starts[phase] for phase in ("heal", "drain", "check") if phase in starts]
    if later:
        end = min(later)
    elif facts.run.schedule.load_s:
        end = begin + int(facts.run.schedule.load_s * 1e9)
    else:
        return None
    return Window(begin, end) if end > begin else None


def fault_bands(facts: Facts, window: Window) -> list[Band]:
    """Faults in order of their effect; the second of one name is called name#2."""
    rows = facts.rows("SELECT t_ns, fault, action FROM said WHERE step = 'fault' ORDER BY t_ns")
    bands: list[Band] = []
    times: dict[str, int] = {}
    for t_ns, fault, action in rows:
        at_s = (t_ns - window.from_ns) / 1e9
        if action == "inject":
            times[fault] = times.get(fault, 0) + 1
            name = fault if times[fault] == 1 else f"{fault}#{times[fault]}"
            bands.append(Band(name, at_s, None))
        else:
            # A heal ends the oldest open fault of its name.
            for n, band in enumerate(bands):
                if band.fault.split("#")[0] == fault and band.to_s is None:
                    bands[n] = band._replace(to_s=at_s)
                    break
    return bands
