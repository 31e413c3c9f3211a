"""Each anomaly planted in a clean run is found, alone and whole; none is invented."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.checkers.verdict import ANOMALIES, EXIT_CODES, Judgement, judge_folder
from tests.histories.writing import PLANTS, Run, planted

FOUND = sorted(ANOMALIES | {"unknown"})


def judged(run: Run, folder: Path) -> Judgement:
    return judge_folder(run.write(folder))


@pytest.mark.parametrize("name", PLANTS)
def test_each_planted_anomaly_gives_exactly_that_finding(name: str, tmp_path: Path) -> None:
    _, counts, verdict = PLANTS[name]
    found = judged(planted(name), tmp_path)
    assert {count: found.counts[count] for count in FOUND if found.counts[count]} == counts
    assert found.word == verdict
    assert (found.reasons == []) == (verdict == "valid")


def test_a_clean_run_accounts_for_every_event(tmp_path: Path) -> None:
    counts = judged(planted("nothing"), tmp_path).counts
    assert counts == dict.fromkeys(counts, 0) | {
        "attempted": 40, "acknowledged": 40, "committed": 80, "delivered": 120, "applied": 120,
    }  # fmt: skip


ALONE = sorted(name for name, (_, counts, _) in PLANTS.items() if counts and name != "park a key")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(ALONE), unique=True, min_size=2))
def test_anomalies_planted_together_are_each_counted_once(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = judged(planted(*names), tmp_path_factory.mktemp("run"))
    expected: dict[str, int] = {}
    for name in names:
        for count, number in PLANTS[name][1].items():
            expected[count] = expected.get(count, 0) + number
    assert {count: found.counts[count] for count in FOUND if found.counts[count]} == expected
    verdicts = {PLANTS[name][2] for name in names}
    assert found.word == next(word for word in ("invalid", "unknown", "valid") if word in verdicts)


def test_the_exit_codes_are_those_of_the_interface() -> None:
    assert {str(word): code for word, code in EXIT_CODES.items()} == {"valid": 0, "invalid": 1, "unknown": 2}
