"""When the clean-up is due, and what becomes of it without a database."""

import logging
import threading
from collections.abc import Iterator

import pytest

from core.storage.cleaning import clean_regularly, until_next_s
from core.storage.database import create_database_engine


@pytest.mark.parametrize(
    ("now_s", "every_s", "wait_s"),
    [
        (1_800_000_060.0, 3_600.0, 3_540.0),
        (1_800_003_599.5, 3_600.0, 0.5),
        (1_800_000_000.0, 3_600.0, 3_600.0),
        (1_800_000_050.0, 60.0, 10.0),
    ],
)
def test_it_is_due_at_minute_0_of_each_hour_or_at_each_full_setting(
    now_s: float, every_s: float, wait_s: float
) -> None:
    assert until_next_s(now_s, every_s) == wait_s


def test_a_database_that_is_away_is_told_in_a_line_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()

    class StopsAtTheSecond(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(caplog.records) >= 2:
                stop.set()

    def never() -> Iterator[int]:
        raise AssertionError("there is no database to clean")

    heard = StopsAtTheSecond()
    logging.getLogger("core.storage.cleaning").addHandler(heard)
    try:
        clean_regularly(create_database_engine("postgresql://x@127.0.0.1:1/x"), {"event": never}, 0.05, stop)
    finally:
        logging.getLogger("core.storage.cleaning").removeHandler(heard)
    assert {(one.levelname, one.message) for one in caplog.records} == {
        ("WARNING", "database failed, the clean-up is tried again next time")
    }
