"""A folder that does not say what it has to say is not judged: the verdict is unknown, and tells what lacks where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.checkers.verdict import ANOMALIES, judge_folder
from tests.histories.driven import clean_driven_run
from tests.histories.test_literal_histories import Tiny
from tests.histories.writing import Run, planted


def tiny() -> Tiny:
    return Tiny().event("e").done("e").line("attempted", "e").line("confirmed", "e", outcomes=["confirmed"])


def refusal(run: Run, folder: Path) -> str:
    found = judge_folder(run.write(folder))
    assert (found.word, found.counts, len(found.reasons)) == ("unknown", {}, 1), found.reasons
    return found.reasons[0]


def test_what_is_refused_here_is_but_for_one_thing_sound(tmp_path: Path) -> None:
    assert judge_folder(tiny().write(tmp_path)).reasons == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": None}, "a line of all-1 has no step"),
        ({"t_ns": None}, "a leased line of all-1 has no t_ns"),
        ({"ids": ["e", None]}, "a leased line of all-1 lacks an id it needs"),
        ({"step": "delivered"}, "a delivered line of all-1 names no group"),
        ({"step": "applied", "outcomes": ["applied"]}, "a applied line of all-1 names no group"),
        ({"step": "acked"}, "a acked line of all-1 names no group"),
        (
            {"step": "answered"},
            "all-1 has the outcome none at answered, which is none of 'acknowledged', 'rejected', 'unknown'",
        ),
        (
            {"step": "confirmed", "outcomes": ["sent"]},
            "all-1 has the outcome sent at confirmed, which is none of 'confirmed', 'refused', 'unknown'",
        ),
        (
            {"step": "applied", "group": "g", "outcomes": ["done"]},
            "all-1 has the outcome done at applied, which is none of 'applied', 'dead_lettered', 'ignored'",
        ),
    ],
)
def test_a_line_without_what_its_step_needs_is_told(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    run = tiny()
    run.history["all-1.ndjson"].append({"t_ns": 3, "step": "leased", "ids": ["e"]} | change)
    assert refusal(run, tmp_path) == f"the history is wrong: {said}"


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        ({"step": "opened", "format": 2}, "b-2 has format 2, this reader knows 1"),
        ({"step": "opened"}, "b-2 has format None, this reader knows 1"),
        ({"step": "closed"}, "b-2 has no opening line"),
    ],
)
def test_a_file_that_does_not_open_as_this_reader_knows_it_is_told(
    opening: dict[str, Any], said: str, tmp_path: Path
) -> None:
    run = tiny()
    run.history["b-2.ndjson"] = [{"t_ns": 1, **opening}]
    assert refusal(run, tmp_path) == f"the history is wrong: {said}"


@pytest.mark.parametrize("name", ["../all-1.ndjson", ".hidden"])
def test_a_history_file_is_named_by_a_mere_name(name: str, tmp_path: Path) -> None:
    run = tiny()
    run.run["history_files"].append(name)
    assert refusal(run, tmp_path) == f"run.json names the history file {name!r}, which is not a file name"


def test_a_folder_without_history_says_so(tmp_path: Path) -> None:
    run = tiny()
    run.history.clear()
    assert refusal(run, tmp_path / "run") == "run/history holds no file: nothing was written down"


def test_lost_files_are_told_in_the_order_of_their_names(tmp_path: Path) -> None:
    run = tiny()
    names = [f"{letter}-9.ndjson" for letter in "hgfedcb"]
    run.run["history_files"] += names
    assert judge_folder(run.write(tmp_path)).reasons == [f"history file {name} is lost" for name in sorted(names)]


def test_two_torn_files_are_read_to_their_last_whole_line_and_noted(tmp_path: Path) -> None:
    run = tiny()
    run.history["b-2.ndjson"] = [{"t_ns": 1, "step": "opened", "pid": 2, "format": 1}]
    run.tails = dict.fromkeys(run.history, b'{"t_ns": 5, "step": "ack')
    found = judge_folder(run.write(tmp_path))
    assert (found.word, found.notes["torn_files"]) == ("valid", ["all-1.ndjson", "b-2.ndjson"])


@pytest.mark.parametrize(
    ("file", "field", "said"),
    [
        ("events", "event_id", "the ledger of event has a line without its id"),
        ("events", "event_type", "the ledger of event has a line without its type"),
        ("inbox", "group", "the ledger of inbox has a line without its g"),
        ("inbox", "event_id", "the ledger of inbox has a line without its id"),
        ("effects", "group", "the ledger of effect has a line without its g"),
        ("effects", "event_id", "the ledger of effect has a line without its id"),
        ("effects", "applied_no", "the ledger of effect has a line without its applied_no"),
        ("pending", "event_id", "the ledger of pending has a line without its id"),
        ("requests", "idempotency_key", "the ledger of request has a line without its id"),
        ("subscriptions", "group", "the ledger of subscription has a line without its g"),
        ("subscriptions", "event_type", "the ledger of subscription has a line without its type"),
    ],
)
def test_a_ledger_line_without_a_field_that_is_compared_is_told(
    file: str, field: str, said: str, tmp_path: Path
) -> None:
    run = tiny().event("f", 2).done("f").event("h", 3).done("h").pending("f").pending("h")
    run.ledger["requests"] = [{"idempotency_key": key, "order_id": None} for key in "ab"]
    run.ledger[file][0][field] = None
    assert refusal(run, tmp_path) == said


def test_an_event_that_the_ledger_names_twice_is_told(tmp_path: Path) -> None:
    said = "ledger/events.ndjson names e twice: the database forbids that"
    assert refusal(tiny().event("e", 2), tmp_path) == said


def test_an_event_of_the_outbox_that_nobody_calls_parked_is_not(tmp_path: Path) -> None:
    run = tiny().event("f", 2).pending("f")
    del run.ledger["pending"][0]["parked"]
    found = judge_folder(run.write(tmp_path))
    assert (found.counts["parked"], found.counts["unseen"]) == (0, 1)


def test_an_anomaly_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    run = tiny()
    run.run["contract"] = ["lost", "lots"]
    said = f"run.json forbids 'lots' in its contract, which is no anomaly; allowed: {', '.join(sorted(ANOMALIES))}"
    assert refusal(run, tmp_path) == said


# At broker level.


def without_keys(run: Run) -> None:
    del run.lines("requested")[1]["keys"]


def with_a_sequence_too_few(run: Run) -> None:
    run.lines("requested")[1]["sequences"].pop()


def without_the_request(run: Run) -> None:
    """The driver says that the broker confirmed a batch, and never that it had one: is any of it lost?"""
    run.history["driver-1.ndjson"].remove(run.lines("requested")[1])
    for step in ("delivered", "acked"):
        run.history["receiver-2.ndjson"].remove(run.lines(step)[1])


@pytest.mark.parametrize("change", [without_keys, with_a_sequence_too_few, without_the_request])
def test_a_driver_that_does_not_say_key_and_sequence_of_each_message_proves_nothing(
    change: Callable[[Run], None], tmp_path: Path
) -> None:
    run = clean_driven_run(messages=30)
    change(run)
    assert "the driver did not say which key and sequence" in refusal(run, tmp_path)


@pytest.mark.parametrize("role", ["driver", "receiver"])
def test_without_a_driver_or_a_receiver_there_is_nothing_to_compare(role: str, tmp_path: Path) -> None:
    run = clean_driven_run(messages=20)
    run.history = {name: lines for name, lines in run.history.items() if not name.startswith(role)}
    run.run["history_files"] = list(run.history)
    assert refusal(run, tmp_path) == f"no process was a {role}: a run at broker level needs one"


def test_keys_that_are_no_list_cannot_be_read(tmp_path: Path) -> None:
    run = clean_driven_run(messages=20)
    run.lines("requested")[0]["sequences"] = ["one"] * 10
    assert refusal(run, tmp_path).startswith("the history cannot be read: ")


# The shop's files.


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("products", "stock"),
        ("stock_reservations", "status"),
        ("orders", "order_id"),
        ("order_lines", "quantity"),
        ("payments", "amount"),
        ("sagas", "status"),
        ("outside_calls", "did_work"),
        ("deliveries", "key"),
    ],
)
def test_a_line_of_the_shops_books_without_a_field_is_told_and_no_book_is_called_balanced(
    file: str, field: str, tmp_path: Path
) -> None:
    run = planted("nothing")
    run.ledger[file][1][field] = None
    said = refusal(run, tmp_path)
    assert said.startswith(f"ledger/{file}.ndjson has a line without one of ")
    assert field in said
