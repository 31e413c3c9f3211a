"""A line of the log in either format carries the fields it was given."""

import json
import logging

from testbed.logs import JsonLines, TextLines


def record(**extra: object) -> logging.LogRecord:
    logger = logging.getLogger("core.inbox.worker")
    return logger.makeRecord(logger.name, logging.WARNING, "f", 1, "given up", (), None, extra=extra)


def test_a_json_line_is_one_object_with_ids_and_without_what_is_not_known() -> None:
    line = json.loads(JsonLines().format(record(event_id="e-1", correlation_id=None, attempts=5)))
    at = line.pop("at")
    assert at.endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "core.inbox.worker",
        "message": "given up",
        "event_id": "e-1",
        "attempts": 5,
    }


def test_an_exception_stays_in_its_line() -> None:
    try:
        raise ValueError("no\nsuch thing")
    except ValueError as error:
        broken = record()
        broken.exc_info = (ValueError, error, error.__traceback__)
    text = JsonLines().format(broken)
    assert "\n" not in text
    assert "no\nsuch thing" in json.loads(text)["exception"]


def test_a_text_line_shows_its_fields_too() -> None:
    assert TextLines("%(levelname)s %(message)s").format(record(event_id="e-1")) == "WARNING given up event_id=e-1"
