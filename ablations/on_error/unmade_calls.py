"""on_error=log-only where a call to the outside world fails (S1.9, S3.18): it is logged and taken as made.

Predicted: every mail, push, SMS or record whose call fails is lost, and no row tells; only the log knows. In place of a
group's calls that nothing follows from; a payment is not among them.
"""

import logging
from collections.abc import Sequence
from typing import Any

from core.inbox.outside import CallAll, Row

log = logging.getLogger(__name__)


def taken_as_made(call_all: CallAll) -> CallAll:
    def call(rows: Sequence[Row]) -> list[Any]:
        answers: list[Any] = []
        for row, answer in zip(rows, call_all(rows), strict=True):
            if isinstance(answer, Exception):
                log.error("call failed", extra={"key": row["idempotency_key"], "error": str(answer)})
            answers.append(None)
        return answers

    return call
