"""A run at broker level as plain data: a driver and a receiver, no ledger; and every anomaly planted in one."""

import random
import uuid
from collections.abc import Callable
from typing import Any

from tests.histories.writing import MS, Run

START = 1_790_000_000_000_000_000
BATCH, EVERY_NS = 10, 5 * MS


def clean_driven_run(
    messages: int = 400, keys: int = 7, seed: int = 1, broker: str = "kafka", fault_at: int | None = None,
    slow: float = 1.0,
) -> Run:  # fmt: skip
    """A batch of ten each 5 ms, confirmed 2 ms and received 3 ms after it was intended.

    With `fault_at` that batch ends unknown though all of it arrived, and is sent again: recovered, and repeated on the
    wire. `slow` stretches the times of answers.
    """
    random_ = random.Random(seed)
    versions: dict[str, int] = {}
    driver: list[dict[str, Any]] = [{"t_ns": START, "step": "opened", "role": "driver", "pid": 1, "format": 1}]
    receiver: list[dict[str, Any]] = [{"t_ns": START, "step": "opened", "role": "receiver", "pid": 2, "format": 1}]
    parent: list[dict[str, Any]] = [{"t_ns": START, "step": "opened", "role": "parent", "pid": 3, "format": 1}]

    def say(file: list[dict[str, Any]], t_ns: float, step: str, **fields: Any) -> None:
        # Lists are copied: a plant in one line must not reach the others.
        own = {name: list(value) if isinstance(value, list) else value for name, value in fields.items()}
        file.append({"t_ns": int(t_ns), "step": step, **own})

    def deliver(t_ns: float, ids: list[str]) -> None:
        say(receiver, t_ns, "delivered", group="receiver", ids=ids)
        say(receiver, t_ns + 0.1 * MS, "acked", group="receiver", ids=ids)

    for number in range(messages // BATCH):
        due = START + 100 * MS + number * EVERY_NS
        ids = [str(uuid.UUID(int=random_.getrandbits(128), version=4)) for _ in range(BATCH)]
        named = [f"k-{random_.randrange(keys)}" for _ in ids]
        sequences = []
        for key in named:
            versions[key] = versions.get(key, 0) + 1
            sequences.append(versions[key])
        say(driver, due, "requested", ids=ids, intended_ns=[due] * BATCH, keys=named, sequences=sequences)
        say(driver, due, "attempted", ids=ids)
        deliver(due + 3 * MS * slow, ids)
        if number == fault_at:
            say(driver, due + 1 * MS, "confirmed", ids=ids, outcomes=["unknown"] * BATCH)
            say(driver, due + 1 * MS, "attempted", ids=ids)
            deliver(due + 3 * MS * slow, ids)
        say(driver, due + 2 * MS * slow, "confirmed", ids=ids, outcomes=["confirmed"] * BATCH)
    load_s = messages / BATCH * EVERY_NS / 1e9
    load_from, load_to = START + 100 * MS, START + 100 * MS + int(load_s * 1e9)
    faults = []
    if fault_at is not None:
        struck = load_from + fault_at * EVERY_NS - MS
        say(parent, struck, "fault", fault="sigkill", action="inject", target="broker", detail="")
        say(parent, struck + 2 * MS, "fault", fault="sigkill", action="heal", target="broker")
        faults = [{"fault": "sigkill", "planned_at_s": 0.0, "fired_at_s": (struck - load_from) / 1e9}]
    for phase, t_ns in (("warm_up", START), ("load", load_from), ("heal", load_to), ("drain", load_to + 9 * MS)):
        say(parent, t_ns, "phase", phase=phase)
    say(parent, load_to + 50 * MS, "phase", phase="check", complete=True)
    for share in (0.1, 0.5, 0.9):
        at = load_from + int((load_to - load_from) * share)
        for part, cores in (("broker", 0.4), ("driver", 0.3), ("receiver", 0.2)):
            say(parent, at, "sample", part=part, cpu_s=share * load_s * cores, rss_bytes=10**8, disk_bytes=0)
        say(parent, at, "lag", group="receiver", topic="catalog-events", lag_messages=0, delay_s=0.0)
    files = {"driver-1.ndjson": driver, "receiver-2.ndjson": receiver, "parent-3.ndjson": parent}
    for lines in files.values():
        lines.sort(key=lambda line: line["t_ns"])
        say(lines, load_to + 60 * MS, "closed")
    run = {
        "format": 1, "broker": broker, "scenario": "broker-steady" if fault_at is None else "broker-kill", "seed": seed,
        "machine": {"cpus": 2}, "contract": ["lost", "phantom", "out_of_order"], "faults": faults,
        "schedule": {"level": "broker", "rate_per_s": BATCH / EVERY_NS * 1e9, "warm_up_s": 0.1, "load_s": load_s},
        "history_files": list(files), "drain": {"complete": True, "waited_s": 0.1},
    }  # fmt: skip
    return Run(run, files, {})


def lose(run: Run) -> None:
    """Confirmed, and never delivered."""
    for step in ("delivered", "acked"):
        run.lines(step)[3]["ids"].pop(4)


def double(run: Run) -> None:
    line = run.lines("delivered")[3]
    line["ids"].append(line["ids"][0])


def reorder(run: Run) -> None:
    """The first two events of a key change places inside one batch of deliveries."""
    keys = run.lines("requested")[5]["keys"]
    key = next(key for key in keys if keys.count(key) > 1)
    one, two = [place for place, each in enumerate(keys) if each == key][:2]
    ids = run.lines("delivered")[5]["ids"]
    ids[one], ids[two] = ids[two], ids[one]


def invent(run: Run) -> None:
    run.lines("delivered")[3]["ids"].append("00000000-0000-7000-8000-000000000bad")


def leave_unanswered(run: Run) -> None:
    """The driver died before the answer to its last batch, which is not there: nothing was promised."""
    run.history["driver-1.ndjson"].remove(run.lines("confirmed")[-1])
    for step in ("delivered", "acked"):
        run.history["receiver-2.ndjson"].remove(run.lines(step)[-1])


def refuse(run: Run) -> None:
    """The broker refused a message, and it is not there."""
    line = run.lines("confirmed")[3]
    line["outcomes"][4] = "refused"
    for step in ("delivered", "acked"):
        run.lines(step)[3]["ids"].remove(line["ids"][4])


def cut_the_drain(run: Run) -> None:
    run.run["drain"]["complete"] = False


def lose_the_receivers_file(run: Run) -> None:
    del run.history["receiver-2.ndjson"]


PLANTS: dict[str, tuple[Callable[[Run], None], dict[str, int], str]] = {
    "nothing": (lambda run: None, {}, "valid"),
    "lose a message": (lose, {"lost": 1}, "invalid"),
    "double a delivery": (double, {"duplicated_on_wire": 1}, "valid"),
    "swap two deliveries of a key": (reorder, {"out_of_order": 1}, "invalid"),
    "invent a delivery": (invent, {"phantom": 1}, "invalid"),
    "leave a batch unanswered": (leave_unanswered, {"unknown": 10}, "valid"),
    "refuse a message": (refuse, {}, "valid"),
    "cut the drain short": (cut_the_drain, {}, "unknown"),
    "lose the receiver's file": (lose_the_receivers_file, {}, "unknown"),
}
"""What is planted, the anomaly counts that must be found (all others 0), and the verdict."""
