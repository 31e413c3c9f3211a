"""`testbed bench inbox` measures what it names: each variant runs to the end and applies each event once."""

import pytest
from sqlalchemy import Engine, text

from benchmarks.parts.inbox import BASELINE, BATCHED, ONE_AT_A_TIME, VARIANTS, run
from brokers.memory.broker import connect
from brokers.memory.config import MemoryConfig
from tests.storage.inbox_bench import inbox_database

__all__ = ["inbox_database"]

# Four rounds, the first not counted: of the variant 60 messages and 120 that are fetched ahead of the clock; of the
# baseline, and of what works one at a time, 10 and 101.
EFFECTS = {
    **dict.fromkeys(("inbox", "inbox-own-row", "inbox-watermark", *BATCHED), 4 * (60 + 120) + 4 * (10 + 101)),
    **dict.fromkeys(ONE_AT_A_TIME, 4 * (10 + 101) + 4 * (10 + 101)),
    "inbox-50%-duplicates": 4 * (60 + 120) // 2 + 4 * (10 + 101),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_measured_beside_one_message_a_transaction(inbox_database: Engine, name: str) -> None:
    [row] = run(
        lambda topology: connect(MemoryConfig(), topology),
        inbox_database,
        names=[name],
        size_messages=60,
        baseline_messages=10,
        batch_messages=20,
    )
    assert (row["name"], row["baseline"], row["rounds"]) == (name, BASELINE, 3)
    assert 0 < row["interval"][0] <= row["ratio"] <= row["interval"][1]
    with inbox_database.connect() as connection:
        counted = text("SELECT count(*), count(DISTINCT event_id) FROM bench_inbox.effect")
        assert tuple(connection.execute(counted).one()) == (EFFECTS[name], EFFECTS[name])
