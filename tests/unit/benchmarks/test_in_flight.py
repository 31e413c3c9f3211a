"""What is in flight is told from lines that another process appends while we look."""

import json
from pathlib import Path

from benchmarks.in_flight import PublishesInFlight, unknown_outcomes


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_publish_is_in_flight_from_its_attempt_to_its_outcomes(tmp_path: Path) -> None:
    relay = tmp_path / "relay-1-1.ndjson"
    watch = PublishesInFlight(tmp_path)
    append(relay, '{"t_ns":1,"step":"opened"}\n')
    assert not watch.any()
    append(relay, '{"t_ns":2,"step":"attempted","ids":["a","b"]}\n')
    assert watch.any()
    append(relay, '{"t_ns":3,"step":"confirmed","ids":["a","b"],"outcomes":["confirmed","unknown"]}\n')
    assert not watch.any()


def test_a_line_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    relay = tmp_path / "relay-1-1.ndjson"
    watch = PublishesInFlight(tmp_path)
    append(relay, '{"t_ns":2,"step":"attempted","ids":["a"]}')
    assert not watch.any()
    append(relay, "\n")
    assert watch.any()


def test_unknown_outcomes_count_only_between_the_two_instants(tmp_path: Path) -> None:
    lines = [
        json.dumps({"t_ns": t_ns, "step": "confirmed", "ids": ["a", "b"], "outcomes": ["unknown", "confirmed"]}) + "\n"
        for t_ns in (10, 20, 30)
    ]
    (tmp_path / "relay-1-1.ndjson").write_text("".join(lines))
    assert unknown_outcomes(tmp_path, 15, 30) == 2
    assert unknown_outcomes(tmp_path, 31, 99) == 0
