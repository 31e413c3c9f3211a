"""A fault counts where it was felt; what shows that differs from kind to kind."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from benchmarks.evidence import evidence_of
from faults.catalogue import FAULTS

S = 1_000_000_000
FROM_NS, TO_NS = 100 * S, 104 * S
Publish = tuple[float, float, str]
"""Handed over and answered at so many seconds, and with what outcome."""


def felt(folder: Path, fault: str, publishes: Sequence[Publish]) -> bool:
    lines = [{"t_ns": 1, "step": "opened"}]
    for number, (from_s, to_s, outcome) in enumerate(publishes):
        lines.append({"t_ns": int(from_s * S), "step": "attempted", "ids": [f"m{number}"]})
        lines.append({"t_ns": int(to_s * S), "step": "confirmed", "ids": [f"m{number}"], "outcomes": [outcome]})
    (folder / "relay-1-1.ndjson").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return "missed" not in evidence_of(FAULTS[fault], folder, FROM_NS, TO_NS)


BEFORE, DURING, THROUGHOUT = (99.0, 99.5, "confirmed"), (99.9, 100.5, "confirmed"), (99.9, 104.2, "confirmed")
UNKNOWN = (99.9, 100.5, "unknown")


@pytest.mark.parametrize(
    ("fault", "publish", "is_felt"),
    [
        ("black-hole", BEFORE, False),
        ("black-hole", DURING, True),
        ("sigkill", THROUGHOUT, False),
        ("sigkill", UNKNOWN, True),
        ("lost-confirm", DURING, False),
        ("lost-confirm", THROUGHOUT, True),
        ("lost-confirm", UNKNOWN, True),
        ("poison", THROUGHOUT, False),
        ("pause", BEFORE, False),
        ("relay-kill", BEFORE, True),
    ],
)
def test_a_fault_counts_where_it_left_the_mark_of_its_kind(
    tmp_path: Path, fault: str, publish: Publish, is_felt: bool
) -> None:
    assert felt(tmp_path, fault, [publish]) is is_felt
