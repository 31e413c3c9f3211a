"""How a role writes its log: text for people, or one JSON object a line for machines. Fields travel either way.

A line about one event names it: `event_id` and `correlation_id`, the same that the wire, the outbox and
`testbed trace` know.
"""

import logging
import sys
from datetime import UTC, datetime

import orjson

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_QUIET = {"httpx": logging.WARNING, "pika": logging.WARNING, "aiormq": logging.WARNING, "aio_pika": logging.WARNING}
"""Their INFO tells of every frame exchanged at a connection's start."""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head, newline, trace = super().format(record).partition("\n")
        return head + "".join(f" {name}={value}" for name, value in fields_of(record).items()) + newline + trace


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as `extra`; without what is None."""
    return {name: value for name, value in record.__dict__.items() if name not in _OWN and value is not None}


def configure(log_format: str) -> None:
    """INFO and above to standard error, in `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextLines("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if log_format == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
