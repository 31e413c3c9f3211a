"""Literal and generated runs for tests: a run as plain data, written as a folder, and every anomaly planted in one."""

import random
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

GROUPS = {"inventory-service": ["OrderCreated", "OrderPaid"], "email-service": ["OrderCreated"]}
MS = 1_000_000
BATCH = 8


@dataclass
class Run:
    """`history`: file name -> lines; `ledger`: file name without ending -> rows; `tails`: raw bytes after the lines."""

    run: dict[str, Any]
    history: dict[str, list[dict[str, Any]]]
    ledger: dict[str, list[dict[str, Any]]]
    tails: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        for kind, files in (("history", self.history), ("ledger", self.ledger)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for name, lines in files.items():
                text = b"".join(orjson.dumps(line) + b"\n" for line in lines)
                (folder / kind / f"{name.removesuffix('.ndjson')}.ndjson").write_bytes(text + self.tails.get(name, b""))
        (folder / "run.json").write_bytes(orjson.dumps(self.run))
        return folder

    def lines(self, step: str, group: str | None = None) -> list[dict[str, Any]]:
        return [
            line
            for lines in self.history.values()
            for line in lines
            if line["step"] == step and (group is None or line.get("group") == group)
        ]


def clean_run(
    orders: int = 40,
    seed: int = 1,
    broker: str = "kafka",
    rate_per_s: float = 20.0,
    fault_at_s: float | None = None,
    outage_s: float = 1.0,
    slow: float = 1.0,
    load_s: float | None = None,
    warm_up_s: float = 0.2,
) -> Run:
    """A run in which nothing is lost, repeated or late. Each order makes two events, both of one aggregate.

    With `fault_at_s` the broker answers nothing for `outage_s`: what was in flight ends unknown and is sent again
    (repeated on the wire, effects once). `slow` stretches all service times.
    """
    random_ = random.Random(seed)
    start = 1_790_000_000_000_000_000
    load_from = start + int(warm_up_s * 1e9)
    load_s = load_s if load_s is not None else orders / rate_per_s
    down = (load_from + int(fault_at_s * 1e9), load_from + int((fault_at_s + outage_s) * 1e9)) if fault_at_s else None

    def text_id() -> str:
        return str(uuid.UUID(int=random_.getrandbits(128), version=4))

    def after(t_ns: int, mean_ms: float) -> int:
        return t_ns + int(random_.lognormvariate(0, 0.5) * mean_ms * slow * MS)

    files: dict[str, list[dict[str, Any]]] = {
        name: [{"t_ns": start, "step": "opened", "role": name.split("-")[0], "pid": 100 + n, "format": 1}]
        for n, name in enumerate(("driver-1", "api-2", "relay-3", "inventory-4", "email-5", "parent-6"))
    }
    ledger: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            "requests",
            "events",
            "pending",
            "inbox",
            "effects",
            "failed_events",
            "orders",
            "stock_reservations",
            "order_lines",
            "payments",
            "sagas",
            "outside_calls",
            "deliveries",
            "product_metrics",
        )
    }
    ledger["subscriptions"] = [{"group": g, "event_type": t} for g, types in GROUPS.items() for t in types]
    ledger["products"] = [{"product_id": str(n), "initial_stock": 10**6, "stock": 10**6} for n in range(1, 6)]

    def say(name: str, t_ns: int, step: str, **fields: Any) -> None:
        files[name].append({"t_ns": t_ns, "step": step, **fields})

    def publish(events: list[str], t_ns: int) -> int:
        """Attempt until confirmed; returns when the group may see them."""
        say("relay-3", t_ns, "leased", ids=events)
        say("relay-3", t_ns + 50_000, "attempted", ids=events)
        if down and down[0] <= t_ns < down[1]:
            say("relay-3", down[1], "confirmed", ids=events, outcomes=["unknown"] * len(events))
            again = after(down[1] + 50 * MS, 3)
            say("relay-3", again, "attempted", ids=events)
            t_ns = again
        confirmed = after(t_ns + 60_000, 2)
        say("relay-3", confirmed, "confirmed", ids=events, outcomes=["confirmed"] * len(events))
        say("relay-3", confirmed + 100_000, "cleared", ids=events)
        return confirmed

    ends: dict[str, int] = dict.fromkeys(GROUPS, start)
    number = 0
    for first in range(0, orders, BATCH):
        batch = range(first, min(first + BATCH, orders))
        keys = [text_id() for _ in batch]
        made = {key: (text_id(), text_id(), text_id()) for key in keys}
        intended = [start + int(n / rate_per_s * 1e9) for n in batch]
        say("driver-1", intended[-1], "requested", ids=keys, intended_ns=intended)
        committed = after(intended[-1], 3)
        created = [made[key][1] for key in keys]
        paid = [made[key][2] for key in keys]
        say("api-2", committed, "committed", ids=created + paid)
        say("driver-1", after(committed, 1), "answered", ids=keys, outcomes=["acknowledged"] * len(keys))
        seen_at = publish(created + paid, after(committed, 2))
        for n, key in zip(batch, keys, strict=True):
            order, one, two = made[key]
            product = ledger["products"][n % 5]
            product["stock"] -= 2
            ledger["requests"].append({"idempotency_key": key, "order_id": order})
            ledger["orders"].append({"order_id": order, "status": "PAID", "total_amount": "20.00"})
            ledger["stock_reservations"].append(
                {"order_id": order, "product_id": product["product_id"], "quantity": 2, "status": "HELD"}
            )
            ledger["order_lines"].append({"order_id": order, "product_id": product["product_id"], "quantity": 2})
            pay = f"pay-{order}"
            ledger["payments"].append(
                {"transaction_key": pay, "order_id": order, "status": "COMPLETED", "amount": "20.00"}
            )
            ledger["sagas"].append(
                {"order_id": order, "step": "PAYMENT_COMPLETED", "status": "COMPLETED", "failure": None}
            )
            mail = f"{order}:ORDER_CONFIRMATION"
            ledger["outside_calls"].append({"kind": "payments", "key": pay, "amount": 20.0, "did_work": True})
            ledger["outside_calls"] += [
                {"kind": "mails", "key": mail, "amount": 0.0, "did_work": did_work} for did_work in (True, False)
            ]
            ledger["deliveries"].append({"kind": "mails", "key": mail, "event_id": order})
            for sequence, (event, type_) in enumerate(((one, "OrderCreated"), (two, "OrderPaid")), start=1):
                ledger["events"].append(
                    {"event_id": event, "topic": "order", "event_type": type_, "aggregate_type": "order",
                     "aggregate_id": order, "sequence": sequence,
                     "correlation_id": key, "occurred_at": "2026-01-01T00:00:00Z"}
                )  # fmt: skip
        for group, name in (("inventory-service", "inventory-4"), ("email-service", "email-5")):
            ids = created + paid if group == "inventory-service" else created
            received = max(after(seen_at, 2), ends[group])
            say(name, received, "delivered", group=group, ids=ids)
            applied = after(received, 3)
            say(name, applied, "applied", group=group, ids=ids, outcomes=["applied"] * len(ids))
            say(name, after(applied, 1), "acked", group=group, ids=ids)
            ends[group] = applied
            for event in ids:
                number += 1
                ledger["inbox"].append({"group": group, "event_id": event, "outcome": "applied", "reason": None})
                ledger["effects"].append({"applied_no": number, "group": group, "event_id": event, "effect": "done"})
    load_to = load_from + int(load_s * 1e9)
    end = max(*ends.values(), load_to) + 100 * MS
    for phase, t_ns in (("warm_up", start), ("load", load_from), ("heal", load_to), ("drain", load_to + MS)):
        say("parent-6", t_ns, "phase", phase=phase)
    say("parent-6", end, "phase", phase="check", complete=True)
    faults = []
    if down:
        say("parent-6", down[0], "fault", fault="sigkill", action="inject", target="broker", detail="killed")
        say("parent-6", down[1], "fault", fault="sigkill", action="heal", target="broker", detail="started")
        faults.append(
            {"fault": "sigkill", "planned_at_s": fault_at_s, "fired_at_s": fault_at_s, "evidence": "8 in flight"}
        )
    for second in range(int((end - start) / 1e9) + 1):
        t_ns = start + int(second * 1e9)
        for part, cores in (("broker", 0.4), ("database", 0.3), ("api", 0.2), ("relay", 0.1), ("consumer", 0.2)):
            say("parent-6", t_ns, "sample", part=part, cpu_s=second * cores * slow, rss_bytes=200_000_000,
                disk_bytes=second * 10**6, network_bytes=second * 2 * 10**6)  # fmt: skip
        is_down = bool(down and down[0] <= t_ns < down[1])
        waiting = int((t_ns - down[0]) / 1e9 * rate_per_s) if down and is_down else 0
        say("parent-6", t_ns, "outbox", depth_messages=waiting, age_s=float(waiting > 0))
        for group in GROUPS:
            say("parent-6", t_ns, "lag", group=group, topic="order", lag_messages=waiting, delay_s=float(waiting > 0))
    for lines in files.values():
        lines.sort(key=lambda line: line["t_ns"])
        lines.append({"t_ns": max(end, lines[-1]["t_ns"]), "step": "closed"})
    run = {
        "format": 1, "broker": broker, "scenario": "steady" if fault_at_s is None else "kill-mid-publish", "seed": seed,
        "started_at": "2026-09-21T15:33:20Z", "versions": {broker: "4.0", "python": "3.11"},
        "machine": {"cpus": 2, "memory_bytes": 8 * 2**30}, "settings": {"durability": "confirmed", "partitions": 3},
        "strategies": {"publish": "outbox-leased", "consume": "inbox"},
        "contract": ["lost", "phantom", "unstored", "duplicated_effects", "out_of_order"],
        "schedule": {"rate_per_s": rate_per_s, "warm_up_s": warm_up_s, "load_s": load_s},
        "faults": faults, "history_files": [f"{name}.ndjson" for name in files],
        "drain": {"complete": True, "waited_s": 0.1}, "git_revision": "0" * 40,
    }  # fmt: skip
    return Run(run, {f"{name}.ndjson": lines for name, lines in files.items()}, ledger)


def _drop_first_id(line: dict[str, Any]) -> None:
    for name in ("ids", "outcomes", "intended_ns"):
        if name in line:
            line[name] = line[name][1:]


def drop_delivery(run: Run) -> None:
    _drop_first_id(run.lines("delivered", "inventory-service")[0])


def drop_acknowledgement(run: Run) -> None:
    """The API's answer to one request was never seen."""
    _drop_first_id(run.lines("answered")[0])


def drop_stored_answer(run: Run) -> None:
    """The API said yes and kept nothing."""
    run.ledger["requests"].pop(3)


def drop_effect(run: Run) -> None:
    run.ledger["effects"].pop(5)


def double_effect(run: Run) -> None:
    run.ledger["effects"].append(run.ledger["effects"][-1] | {"applied_no": 10**9})


def swap_two_effects(run: Run) -> None:
    """Of one aggregate and group: version 2 is applied before version 1."""
    aggregate = run.ledger["events"][0]["aggregate_id"]
    ids = [row["event_id"] for row in run.ledger["events"] if row["aggregate_id"] == aggregate]
    one, two = (row for row in run.ledger["effects"] if row["event_id"] in ids and row["group"] == "inventory-service")
    one["applied_no"], two["applied_no"] = two["applied_no"], one["applied_no"]


def invent_event(run: Run) -> None:
    line = run.lines("delivered", "email-service")[0]
    line["ids"] = [*line["ids"], "00000000-0000-4000-8000-000000000bad"]


def repeat_delivery(run: Run) -> None:
    line = run.lines("delivered", "email-service")[0]
    line["ids"] = [*line["ids"], line["ids"][0]]


def cut_the_drain(run: Run) -> None:
    run.run["drain"]["complete"] = False
    for line in run.lines("phase"):
        if line["phase"] == "check":
            line["complete"] = False


def tear_the_last_line(run: Run) -> None:
    run.history["email-5.ndjson"].pop()
    run.tails["email-5.ndjson"] = b'{"t_ns":1790000000000000000,"step":"acked","group":"email-servi'


def lose_a_history_file(run: Run) -> None:
    del run.history["api-2.ndjson"]


def skew_a_clock(run: Run) -> None:
    for line in run.history["inventory-4.ndjson"]:
        line["t_ns"] -= 50 * MS


def miss_the_fault(run: Run) -> None:
    run.run["faults"] = [{"fault": "sigkill", "planned_at_s": 1.0, "fired_at_s": None, "evidence": None}]


def park_a_key(run: Run) -> None:
    """The relay gave a key up: its newest event is in the outbox and no group saw it."""
    event = run.ledger["events"][1]["event_id"]
    for name in ("inbox", "effects"):
        run.ledger[name] = [row for row in run.ledger[name] if row["event_id"] != event]
    for step in ("delivered", "applied", "acked"):
        for line in run.lines(step):
            keep = [n for n, id_ in enumerate(line["ids"]) if id_ != event]
            for part in ("ids", "outcomes"):
                if part in line:
                    line[part] = [line[part][n] for n in keep]
    run.ledger["pending"].append({"event_id": event, "attempts": 5, "last_error": "too large", "parked": True})


PLANTS: dict[str, tuple[Callable[[Run], None], dict[str, int], str]] = {
    "nothing": (lambda run: None, {}, "valid"),
    "drop a delivery": (drop_delivery, {"undelivered_effect": 1}, "unknown"),
    "drop an acknowledgement": (drop_acknowledgement, {"unknown": 1}, "valid"),
    "drop a stored answer": (drop_stored_answer, {"unstored": 1}, "invalid"),
    "drop an effect": (drop_effect, {"lost": 1}, "invalid"),
    "double an effect": (double_effect, {"duplicated_effects": 1}, "invalid"),
    "swap two effects of an aggregate": (swap_two_effects, {"out_of_order": 1}, "invalid"),
    "invent an event": (invent_event, {"phantom": 1}, "invalid"),
    "repeat a delivery": (repeat_delivery, {"duplicated_on_wire": 1}, "valid"),
    "cut the drain short": (cut_the_drain, {}, "unknown"),
    "tear the last line": (tear_the_last_line, {}, "valid"),
    "lose a history file": (lose_a_history_file, {}, "unknown"),
    "skew a clock by 50 ms": (skew_a_clock, {}, "valid"),
    "miss the fault": (miss_the_fault, {}, "unknown"),
    "park a key": (park_a_key, {"parked": 1}, "valid"),
}
"""What is planted, the anomaly counts that must be found (all others 0), and the verdict."""


def planted(*names: str, orders: int = 40) -> Run:
    run = deepcopy(clean_run(orders=orders))
    for name in names:
        PLANTS[name][0](run)
    return run
