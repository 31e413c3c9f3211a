"""What `testbed shrink` runs again: the same load with fewer faults; and what counts as the same failure."""

import json
from pathlib import Path

import pytest

from faults.schedule import Drawn
from testbed.experiments import prepare
from testbed.settings import SettingError
from testbed.shrinking import as_set, broken_promises, part_of, what_was_run

PLAN = ["faults=sigkill@5+2,reset@20,pause@40+4", "load.duration_s=60"]


def test_a_run_is_read_back_as_it_was_prepared(tmp_path: Path) -> None:
    planned, settings = prepare("steady", "rabbitmq", 9, [*PLAN, "consume_strategy=none", "relay.order=ignore"])
    run = {
        "broker": "rabbitmq",
        "plan": planned.model_dump(mode="json"),
        "settings": {**settings.model_dump(), "rabbitmq": {"publisher": {"confirms": "on"}}},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    again, same = what_was_run(tmp_path)
    assert again == planned
    assert (same.seed, same.consume_strategy, same.seam("relay.order")) == (9, "none", "ignore")


def test_a_part_keeps_the_load_and_ends_soon_after_its_last_fault() -> None:
    planned, _ = prepare("steady", "kafka", 9, PLAN)
    part = part_of(planned, [Drawn("sigkill", 5, 1)])
    assert [(fault.fault, fault.at_s, fault.for_s, fault.when) for fault in part.faults] == [
        ("sigkill", 5, 1, "publish_in_flight")
    ]
    assert part.load == planned.load.model_copy(update={"duration_s": 21.0})
    assert part_of(planned, [Drawn("pause", 40, 4)]).load.duration_s == 59
    wave = planned.model_copy(update={"load": planned.load.model_copy(update={"shape": "wave"})})
    assert part_of(wave, []).load.duration_s == 60


def test_only_what_the_contract_forbids_or_books_that_do_not_balance_are_broken_promises() -> None:
    anomalies = [{"name": "lost", "forbidden": True}, {"name": "duplicated_on_wire", "forbidden": False}]
    invariants = {"stock_conserved": {"passed": False}, "stock_not_negative": {"passed": True}, "x": {"passed": None}}
    verdict = {"verdict": "invalid", "anomalies": anomalies, "invariants": invariants}
    assert broken_promises(verdict) == {"lost", "stock_conserved"}
    assert broken_promises({**verdict, "verdict": "unknown"}) == frozenset()


def test_the_found_schedule_is_told_as_set_takes_it() -> None:
    found = [Drawn("sigkill", 5, 1.25), Drawn("reset", 20.5, 0)]
    assert as_set(found) == "faults=sigkill@5+1.25,reset@20.5+0"
    assert [fault.for_s for fault in prepare("steady", "kafka", 1, [as_set(found)])[0].faults] == [1.25, 0]


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"broker": "kafka"}')
    with pytest.raises(SettingError, match="no plan"):
        what_was_run(tmp_path)
