"""The checkers hold their speed and memory on ten million recorded ids."""

import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest

EVENTS = 1_000_000
BATCH = 500
ID_LINES = 10
"""requested, answered, committed, leased, attempted, confirmed, cleared, delivered, applied, acked."""

JUDGE = """
import resource, sys, time
from pathlib import Path
from analysis.checkers.verdict import judge_folder
begin = time.monotonic()
found = judge_folder(Path(sys.argv[1]))
seconds = time.monotonic() - begin
print(found.word, found.counts["applied"], seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(found.reasons, file=sys.stderr)
"""


def write_large_run(folder: Path, events: int = EVENTS) -> Path:
    """A clean run of `events` events, one group, ten recorded ids an event, written without holding it in memory."""
    random_ = random.Random(1)
    start = 1_790_000_000_000_000_000
    (folder / "history").mkdir(parents=True)
    (folder / "ledger").mkdir()
    names = ("driver-1-1", "relay-2-1", "consumer-3-1")
    files = {name: (folder / "history" / f"{name}.ndjson").open("wb") for name in names}
    ledger = {
        name: (folder / "ledger" / f"{name}.ndjson").open("wb")
        for name in ("requests", "events", "pending", "inbox", "effects", "failed_events", "subscriptions")
    }

    def put(file: Any, **line: Any) -> None:
        file.write(orjson.dumps(line) + b"\n")

    for n, name in enumerate(names):
        put(files[name], t_ns=start, step="opened", role=name.split("-")[0], pid=n, format=1)
    put(files["driver-1-1"], t_ns=start, step="phase", phase="load")
    put(ledger["subscriptions"], group="g", event_type="OrderCreated")
    for first in range(0, events, BATCH):
        ids = [str(uuid.UUID(int=random_.getrandbits(128), version=4)) for _ in range(BATCH)]
        keys = [str(uuid.UUID(int=random_.getrandbits(128), version=4)) for _ in range(BATCH)]
        t_ns = start + first * 20_000
        put(files["driver-1-1"], t_ns=t_ns, step="requested", ids=keys, intended_ns=[t_ns] * BATCH)
        put(files["driver-1-1"], t_ns=t_ns, step="answered", ids=keys, outcomes=["acknowledged"] * BATCH)
        for step in ("committed", "leased", "attempted", "confirmed", "cleared"):
            outcomes = {"outcomes": ["confirmed"] * BATCH} if step == "confirmed" else {}
            put(files["relay-2-1"], t_ns=t_ns + 10**6, step=step, ids=ids, **outcomes)
        for step in ("delivered", "applied", "acked"):
            outcomes = {"outcomes": ["applied"] * BATCH} if step == "applied" else {}
            put(files["consumer-3-1"], t_ns=t_ns + 2 * 10**6, step=step, group="g", ids=ids, **outcomes)
        for n, (id_, key) in enumerate(zip(ids, keys, strict=True)):
            number = first + n
            put(ledger["requests"], idempotency_key=key, order_id=f"o-{number}")
            put(
                ledger["events"], event_id=id_, topic="order", event_type="OrderCreated", aggregate_type="order",
                aggregate_id=f"o-{number // 10}", sequence=number % 10 + 1, correlation_id=key, occurred_at="",
            )  # fmt: skip
            put(ledger["inbox"], group="g", event_id=id_, outcome="applied", reason=None)
            put(ledger["effects"], applied_no=number, group="g", event_id=id_, effect="done")
    end = start + events * 20_000 + 10**9
    put(files["driver-1-1"], t_ns=end, step="phase", phase="check", complete=True)
    for file in (*files.values(), *ledger.values()):
        file.close()
    run = {
        "format": 1, "broker": "memory", "scenario": "large", "seed": 1, "contract": ["lost", "out_of_order"],
        "history_files": [f"{name}.ndjson" for name in names], "drain": {"complete": True},
    }  # fmt: skip
    (folder / "run.json").write_bytes(orjson.dumps(run))
    return folder


@pytest.mark.long
def test_ten_million_ids_are_judged_within_30_s_and_2_gib(tmp_path: Path) -> None:
    assert EVENTS * ID_LINES == 10_000_000
    folder = write_large_run(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", JUDGE, str(folder)], capture_output=True, text=True, check=True)
    word, applied, seconds, rss_bytes = done.stdout.split()
    assert (word, int(applied)) == ("valid", EVENTS), done.stderr
    assert float(seconds) < 30
    assert int(rss_bytes) < 2 * 2**30
