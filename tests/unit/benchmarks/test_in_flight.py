"""What is in flight is told from lines that another process appends while we look."""

import json
import subprocess
from pathlib import Path

from benchmarks.in_flight import PublishesInFlight, dead_letters, in_flight_during, unknown_outcomes


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


def test_what_a_process_that_died_left_open_is_in_flight_no_more(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    assert gone.wait() == 0
    relay = tmp_path / f"relay-{gone.pid}-1.ndjson"
    append(relay, '{"t_ns":2,"step":"attempted","ids":["a"]}\n')
    assert not PublishesInFlight(tmp_path).any()
    assert in_flight_during(tmp_path, 1, 9) == 1
    assert in_flight_during(tmp_path, 3, 9) == 0


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


def test_what_was_in_flight_during_a_fault_was_handed_over_before_its_end_and_answered_after_its_begin(
    tmp_path: Path,
) -> None:
    def lines(name: str, *steps: tuple[int, str, str]) -> None:
        text = "".join(
            json.dumps(
                {"t_ns": t_ns, "step": step, "ids": [id_]} | ({"outcomes": ["confirmed"]} if step[0] == "c" else {})
            )
            + "\n"
            for t_ns, step, id_ in steps
        )
        (tmp_path / f"{name}.ndjson").write_text(text + '{"t_ns":99,"step":"attemp')

    lines("relay-1-1", (1, "attempted", "before"), (2, "confirmed", "before"), (3, "attempted", "across"))
    lines("relay-2-2", (4, "attempted", "within"), (12, "confirmed", "within"), (13, "attempted", "after"))
    assert in_flight_during(tmp_path, 5, 10) == 2
    assert in_flight_during(tmp_path, 1, 3) == 2
    assert in_flight_during(tmp_path, 13, 20) == 2


def test_a_torn_last_line_of_a_killed_process_counts_nothing(tmp_path: Path) -> None:
    whole = '{"t_ns":5,"step":"applied","ids":["a"],"outcomes":["dead_lettered"]}\n'
    append(tmp_path / "consumer-1-1.ndjson", whole + whole[:-4])
    assert dead_letters(tmp_path, 5) == 1
    assert dead_letters(tmp_path, 6) == 0
