"""The verdict file, what `verify` and `explain` say, and doubts that may never turn into comfort."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
import typer
from typer.testing import CliRunner

from analysis.checkers.shop import INVARIANTS
from analysis.checkers.verdict import judge_folder
from analysis.verdict import differences, stored_verdict, write_verdict
from history.reader import line_counts
from testbed import judging
from tests.histories.writing import Run, clean_run, double_effect, drop_delivery, planted

app = typer.Typer()
judging.register(app)


def run_cli(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_verify_says_the_same_as_the_stored_verdict(tmp_path: Path) -> None:
    write_verdict(planted("nothing").write(tmp_path))
    code, text = run_cli("verify", tmp_path)
    assert code == 0
    assert "verdict.json says the same" in text


def test_verify_of_changed_files_tells_what_the_stored_verdict_says_otherwise(tmp_path: Path) -> None:
    run = planted("nothing")
    write_verdict(run.write(tmp_path))
    double_effect(run)
    code, text = run_cli("verify", run.write(tmp_path))
    assert code == 1
    assert "because duplicated_effects = 1 (email-service 1)" in text
    assert "counts.duplicated_effects: 0 stored, 1 computed" in text


def test_the_verdict_file_has_the_names_of_the_interface(tmp_path: Path) -> None:
    write_verdict(planted("nothing").write(tmp_path))
    fields = orjson.loads((tmp_path / "verdict.json").read_bytes())
    assert fields.keys() >= {
        "broker", "scenario", "seed", "verdict", "passed", "contract", "counts", "groups", "invariants", "latency_ms",
        "throughput_per_s", "saturated", "recovery_s", "resources",
    }  # fmt: skip
    assert list(fields["counts"]) == [
        "attempted", "acknowledged", "unknown", "unstored", "committed", "delivered", "applied", "ignored",
        "dead_lettered", "parked", "lost", "unseen", "phantom", "recovered", "duplicated_on_wire",
        "duplicated_effects", "out_of_order", "late_by_redrive", "undelivered_effect",
    ]  # fmt: skip
    assert (fields["format"], fields["passed"]) == (1, True)
    assert (tmp_path / "verdict.json").read_bytes().endswith(b"}\n")


def test_two_judgements_of_one_folder_are_the_same(tmp_path: Path) -> None:
    folder = clean_run(orders=400, fault_at_s=3.0).write(tmp_path)
    first = write_verdict(folder).fields
    stored = stored_verdict(folder)
    assert stored is not None
    assert differences(stored, first) == []
    assert differences(stored, write_verdict(folder).fields) == []


@pytest.mark.parametrize(
    "name", ["requests", "events", "pending", "inbox", "effects", "failed_events", "subscriptions"]
)
def test_without_a_ledger_file_the_verdict_is_unknown(name: str, tmp_path: Path) -> None:
    run = planted("nothing")
    del run.ledger[name]
    found = judge_folder(run.write(tmp_path))
    assert found.word == "unknown"
    assert f"no ledger/{name}.ndjson" in found.reasons[0]


def test_a_broken_line_in_the_middle_makes_the_verdict_unknown_and_is_named(tmp_path: Path) -> None:
    folder = planted("nothing").write(tmp_path)
    path = folder / "history" / "relay-3.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"t_ns": 1, "step"\n', *lines[3:]]))
    found = judge_folder(folder)
    assert found.word == "unknown"
    assert "relay-3.ndjson" in found.reasons[0]
    assert found.counts == {}


def test_an_outcome_word_nobody_knows_makes_the_verdict_unknown(tmp_path: Path) -> None:
    run = planted("nothing")
    run.lines("confirmed")[0]["outcomes"][0] = "sent"
    found = judge_folder(run.write(tmp_path))
    assert (found.word, found.reasons[0][:20]) == ("unknown", "the history is wrong")


def test_an_id_without_an_outcome_makes_the_verdict_unknown(tmp_path: Path) -> None:
    run = planted("nothing")
    run.lines("applied")[0]["outcomes"].pop()
    assert judge_folder(run.write(tmp_path)).word == "unknown"


def test_who_reads_on_sees_the_finding_and_the_facts_while_they_are_open(tmp_path: Path) -> None:
    run = planted("nothing")
    seen = []
    found = judge_folder(
        run.write(tmp_path), lambda facts, judged: seen.append((facts.one("SELECT count(*) FROM event"), judged))
    )
    assert seen == [(len(run.ledger["events"]), found)]


def test_a_checker_that_crashes_has_shown_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(facts: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("analysis.checkers.order.find_late", crash)
    found = judge_folder(planted("nothing").write(tmp_path))
    assert found.word == "unknown"
    assert "ZeroDivisionError: planted" in found.reasons[0]


def test_a_contract_that_forbids_a_name_nobody_knows_is_refused(tmp_path: Path) -> None:
    run = planted("nothing")
    run.run["contract"] = ["lots"]
    found = judge_folder(run.write(tmp_path))
    assert (found.word, "'lots'" in found.reasons[0]) == ("unknown", True)


def test_a_run_that_never_reached_its_check_is_unknown(tmp_path: Path) -> None:
    run = planted("nothing")
    for lines in run.history.values():
        lines[:] = [line for line in lines if line.get("phase") != "check"]
    assert judge_folder(run.write(tmp_path)).word == "unknown"


def test_an_empty_run_proves_nothing(tmp_path: Path) -> None:
    found = judge_folder(clean_run(orders=0).write(tmp_path))
    assert (found.word, found.reasons) == ("unknown", ["no event was committed: an empty run proves nothing"])


def test_what_is_missing_after_a_drain_cut_short_is_unseen_not_lost(tmp_path: Path) -> None:
    found = judge_folder(planted("drop an effect", "cut the drain short").write(tmp_path))
    assert (found.word, found.counts["lost"], found.counts["unseen"]) == ("unknown", 0, 1)


def test_a_doubled_effect_stays_a_broken_promise_when_the_drain_was_cut_short(tmp_path: Path) -> None:
    found = judge_folder(planted("double an effect", "cut the drain short").write(tmp_path))
    assert found.word == "invalid"


def test_an_anomaly_that_the_contract_allows_is_reported_and_not_punished(tmp_path: Path) -> None:
    run = planted("drop an effect")
    run.run["contract"].remove("lost")
    found = judge_folder(run.write(tmp_path))
    assert (found.word, found.counts["lost"]) == ("valid", 1)


@pytest.mark.parametrize("told_by", ["history", "plan"])
def test_a_promise_taken_out_of_run_json_alone_still_counts_and_what_lacks_it_is_not_valid(
    told_by: str, tmp_path: Path
) -> None:
    for name, plants, code in (("kept", ["nothing"], 2), ("broken", ["double an effect"], 1)):
        run = planted(*plants)
        if told_by == "history":
            run.lines("phase")[0]["contract"] = run.run["contract"]
        else:
            run.run["plan"] = {"forbids": run.run["contract"]}
        run.run["contract"] = ["lost"]
        folder = run.write(tmp_path / name)
        found, text = run_cli("verify", folder)
        assert found == code, text
        told = "duplicated_effects, out_of_order, phantom, unstored"
        assert f"because the contract in run.json lacks {told}, which the run promised at its start" in text
        assert "duplicated_effects" in judge_folder(folder).contract


def test_a_dead_letter_on_record_is_not_lost_and_one_not_on_record_is(tmp_path: Path) -> None:
    run = planted("drop an effect")
    gone = next(
        row for row in run.ledger["inbox"]
        if not any(e["event_id"] == row["event_id"] and e["group"] == row["group"] for e in run.ledger["effects"])
    )  # fmt: skip
    run.ledger["inbox"].remove(gone)
    assert judge_folder(run.write(tmp_path / "a")).counts["lost"] == 1
    run.ledger["failed_events"].append({"topic": "order", "group": gone["group"], "event_id": gone["event_id"]})
    found = judge_folder(run.write(tmp_path / "b"))
    assert (found.word, found.counts["lost"], found.counts["dead_lettered"]) == ("valid", 0, 1)


def test_a_retried_dead_letter_applied_after_newer_ones_is_late_and_not_out_of_order(tmp_path: Path) -> None:
    run = planted("swap two effects of an aggregate")
    first = run.ledger["events"][0]["event_id"]
    run.ledger["failed_events"].append({"topic": "order", "group": "inventory-service", "event_id": first})
    found = judge_folder(run.write(tmp_path))
    assert (found.word, found.counts["out_of_order"], found.counts["late_by_redrive"]) == ("valid", 0, 1)


def test_order_is_not_promised_between_two_topics(tmp_path: Path) -> None:
    run = planted("swap two effects of an aggregate")
    run.ledger["events"][0]["topic"] = "another"
    found = judge_folder(run.write(tmp_path))
    assert (found.word, found.counts["out_of_order"], found.notes["reordered_across_topics"]) == ("valid", 0, 1)


def _sell_twice(run: Run) -> None:
    run.ledger["products"][0]["stock"] -= 1


def _below_nothing(run: Run) -> None:
    run.ledger["products"][0] |= {"initial_stock": 10, "stock": -6}


def _reserve_for_nobody(run: Run) -> None:
    run.ledger["stock_reservations"].append({"order_id": "x", "product_id": "1", "quantity": 0, "status": "HELD"})


def _answer_for_nothing(run: Run) -> None:
    run.ledger["requests"].append({"idempotency_key": "k", "order_id": "x"})


def _answer_two_with_one(run: Run) -> None:
    run.ledger["requests"].append(run.ledger["requests"][0] | {"idempotency_key": "k"})


def _hold_too_little(run: Run) -> None:
    run.ledger["order_lines"][0]["quantity"] += 1


def _pay_without_payment(run: Run) -> None:
    run.ledger["payments"][0]["status"] = "FAILED"


def _charge_twice(run: Run) -> None:
    run.ledger["outside_calls"].append(run.ledger["outside_calls"][0])


def _mail_twice(run: Run) -> None:
    run.ledger["outside_calls"].append(run.ledger["outside_calls"][1])


def _mail_nobody(run: Run) -> None:
    run.ledger["outside_calls"].append({"kind": "mails", "key": "nobody", "amount": 0.0, "did_work": True})


def _keep_a_mail_back(run: Run) -> None:
    run.ledger["outside_calls"][1]["did_work"] = False


def _go_on_after_the_end(run: Run) -> None:
    made = run.ledger["events"][0]
    again = {"event_id": str(uuid4()), "event_type": "OrderCancelled", "sequence": 3}
    run.ledger["events"].append(made | again)


def _hang(run: Run) -> None:
    run.ledger["sagas"][0] |= {"step": "ORDER_CREATED", "status": "RUNNING"}


def _write_over_a_view(run: Run) -> None:
    run.ledger["product_metrics"].append({"product_id": "1", "views": 3})


BROKEN_BOOKS = {
    "views_counted": _write_over_a_view,
    "stock_follows_order": _hold_too_little,
    "payment_follows_order": _pay_without_payment,
    "money_conserved": _charge_twice,
    "delivered_once": _mail_twice,
    "final_states_kept": _go_on_after_the_end,
    "no_hung_saga": _hang,
    "stock_conserved": _sell_twice,
    "stock_not_negative": _below_nothing,
    "reservation_has_order": _reserve_for_nobody,
    "answer_has_order": _answer_for_nothing,
    "one_order_per_request": _answer_two_with_one,
}


@pytest.mark.parametrize("name", INVARIANTS)
def test_books_that_do_not_balance_make_a_run_invalid(name: str, tmp_path: Path) -> None:
    run = planted("nothing")
    BROKEN_BOOKS[name](run)
    found = judge_folder(run.write(tmp_path))
    assert [i for i, judged in found.invariants.items() if not judged.passed] == [name]
    assert found.word == "invalid"


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (_mail_twice, "delivered 2 times, asked for once"),
        (_mail_nobody, "mails nobody: delivered 1 times, nobody asked for"),
        (_keep_a_mail_back, "delivered 0 times, asked for once"),
    ],
)
def test_a_mail_is_delivered_once_to_whom_it_was_meant(plant: Callable[[Run], None], said: str, tmp_path: Path) -> None:
    run = planted("nothing")
    plant(run)
    judged = judge_folder(run.write(tmp_path)).invariants["delivered_once"]
    assert (judged.passed, said in judged.detail) == (False, True)


def _cancel(run: Run) -> None:
    """The first order as it is after its payment was taken back and its stock released."""
    order = run.ledger["orders"][0]
    order["status"] = "CANCELLED"
    run.ledger["payments"][0]["status"] = "CANCELLED"
    run.ledger["sagas"][0]["status"] = "CANCELLED"
    run.ledger["stock_reservations"][0]["status"] = "RELEASED"
    run.ledger["products"][0]["stock"] += 2
    key = run.ledger["payments"][0]["transaction_key"]
    run.ledger["outside_calls"].append({"kind": "cancels", "key": key, "amount": -20.0, "did_work": True})


def _without_the_refund(run: Run) -> None:
    run.ledger["outside_calls"].pop()


def _with_its_stock_kept(run: Run) -> None:
    run.ledger["stock_reservations"][0]["status"] = "CONFIRMED"
    run.ledger["products"][0]["stock"] -= 2


def _with_its_payment_kept(run: Run) -> None:
    run.ledger["payments"][0]["status"] = "COMPLETED"


def _with_another_amount(run: Run) -> None:
    run.ledger["payments"][1]["amount"] = "19.99"


def _with_a_charge_for_nobody(run: Run) -> None:
    run.ledger["outside_calls"].append({"kind": "payments", "key": "pay-nobody", "amount": 1.0, "did_work": True})


def _with_its_saga_still_undoing(run: Run) -> None:
    run.ledger["sagas"][0]["status"] = "COMPENSATING"


def test_the_books_of_an_order_that_was_cancelled_and_paid_back_balance(tmp_path: Path) -> None:
    run = planted("nothing")
    _cancel(run)
    assert judge_folder(run.write(tmp_path)).word == "valid"


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (_without_the_refund, "money_conserved"),
        (_with_its_stock_kept, "stock_follows_order"),
        (_with_its_payment_kept, "payment_follows_order"),
        (_with_another_amount, "payment_follows_order"),
        (_with_a_charge_for_nobody, "money_conserved"),
        (_with_its_saga_still_undoing, "no_hung_saga"),
    ],
)
def test_a_cancelled_order_that_keeps_something_breaks_the_book_it_stands_in(
    plant: Callable[[Run], None], name: str, tmp_path: Path
) -> None:
    run = planted("nothing")
    _cancel(run)
    plant(run)
    found = judge_folder(run.write(tmp_path))
    assert [i for i, judged in found.invariants.items() if not judged.passed] == [name]
    assert found.word == "invalid"


@pytest.mark.parametrize(
    ("file", "undecided"),
    [
        ("stock_reservations", {"stock_conserved", "stock_follows_order"}),
        ("orders", {"stock_follows_order", "payment_follows_order", "money_conserved"}),
    ],
)
def test_a_status_nobody_knows_leaves_what_rests_on_it_undecided(
    file: str, undecided: set[str], tmp_path: Path
) -> None:
    run = planted("nothing")
    run.ledger[file][0]["status"] = "MAYBE"
    found = judge_folder(run.write(tmp_path))
    assert found.word == "unknown"
    assert {name for name, judged in found.invariants.items() if judged.passed is None} == undecided


def test_explain_shows_an_events_life_by_its_id_or_by_its_requests_key(tmp_path: Path) -> None:
    run = planted("nothing")
    event = run.ledger["events"][0]
    folder = run.write(tmp_path)
    code, text = run_cli("explain", folder, event["event_id"])
    assert code == 0
    words = [line.split("ms")[-1].split()[0] for line in text.splitlines() if " ms " in line]
    assert words[:3] == ["requested", "committed", "answered"]
    assert "delivered inventory-service" in text
    assert "in the database OrderCreated of order" in text
    assert "effect email-service done" in text
    assert event["event_id"] != event["correlation_id"]
    assert run_cli("explain", folder, event["correlation_id"])[1].count("in the database") == 2


def test_explain_of_an_id_that_nothing_speaks_of_says_so(tmp_path: Path) -> None:
    code, text = run_cli("explain", planted("nothing").write(tmp_path), "no-such-id")
    assert (code, "speaks of no-such-id" in text) == (2, True)


def test_every_anomaly_carries_its_first_ids_and_their_lives(tmp_path: Path) -> None:
    run = planted("nothing")
    drop_delivery(run)
    found = judge_folder(run.write(tmp_path))
    (anomaly,) = found.anomalies
    steps = [moment.step for moment in found.lives[anomaly.first[0].id]]
    assert {"requested", "committed", "confirmed", "applied", "effect"} <= set(steps)
    assert anomaly.first[0].group == "inventory-service"


def test_a_folder_that_is_no_run_is_unknown_with_a_reason(tmp_path: Path) -> None:
    code, text = run_cli("verify", tmp_path)
    assert (code, "has no run.json" in text) == (2, True)


def test_a_file_that_was_cut_or_removed_after_the_run_leaves_no_valid_verdict(tmp_path: Path) -> None:
    run = planted("nothing")
    folder = run.write(tmp_path)
    run.run["files"] = line_counts(folder)
    assert set(run.run["files"]) == {str(p.relative_to(folder)) for p in folder.glob("*/*.ndjson")}
    assert judge_folder(run.write(tmp_path)).reasons == []
    for name, count in run.run["files"].items():
        path = folder / name
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        assert len(lines) == count
        for content in [b"".join(lines[:-1])] if lines else []:
            path.write_bytes(content)
            found = judge_folder(folder)
            assert found.word != "valid", (name, len(whole), len(content))
            assert any(name in reason or path.stem in reason for reason in found.reasons)
        path.unlink()
        found = judge_folder(folder)
        assert found.word != "valid", name
        assert any(name in reason or path.name in reason or path.stem in reason for reason in found.reasons)
        path.write_bytes(whole)
    calls = folder / "ledger" / "effects.ndjson"
    whole = calls.read_bytes()
    calls.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    count = len(whole.splitlines())
    said = f"ledger/effects.ndjson has {count - 1} of the {count} lines that the run left"
    assert said in judge_folder(folder).reasons
    calls.write_bytes(whole)
    history = folder / "history" / "api-2.ndjson"
    whole = history.read_bytes()
    history.write_bytes(whole[:-3])
    assert judge_folder(folder).reasons == [], "a torn last line is tolerated"
