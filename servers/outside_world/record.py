"""Every call, one JSON line each, written before anything relies on it: an append-only file that survives SIGKILL."""

import fcntl
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the record; docs/history.md says what each field means."""

    call_no: int
    t_ns: int
    kind: str
    """payments, cancels, settlements, mails, pushes, sms, records."""
    key: str
    outcome: str
    """payments: completed, failed, pending; cancelled; accepted; unavailable (told to fail)."""
    reason: str | None
    did_work: bool
    is_repeat: bool
    """Answered like an earlier call of the key, whose work was not done again."""
    is_answered: bool
    amount: Decimal
    """Money moved by this call: charged above zero, refunded below."""
    body: dict[str, Any]


_ENCODER = msgspec.json.Encoder(decimal_format="number")
_DECODER = msgspec.json.Decoder(Call)


class RecordInUse(Exception):
    def __init__(self, path: Path) -> None:
        super().__init__(f"another outside world writes {path}: give each a record of its own")


class Record:
    def __init__(self, path: Path) -> None:
        """Opens or makes the file; a torn last line is cut off: its call was never answered. Raises RecordInUse."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise RecordInUse(path) from error
        os.ftruncate(self._file, _end_of_whole_lines(self._file))

    def append(self, call: Call) -> None:
        """One `write(2)`: in the file when this returns. Raises OSError when the disk is full."""
        text = _ENCODER.encode(call) + b"\n"
        written = os.write(self._file, text)
        if written != len(text):
            raise OSError(f"{self.path}: only {written} of {len(text)} bytes were written; is the disk full?")

    def calls(self) -> Iterator[Call]:
        return map(_DECODER.decode, self.lines())

    def lines(self) -> Iterator[bytes]:
        """The whole lines there are now, newline included; what is appended meanwhile is not among them."""
        left_bytes = os.fstat(self._file).st_size
        with self.path.open("rb") as file:
            for line in file:
                left_bytes -= len(line)
                if left_bytes < 0 or not line.endswith(b"\n"):
                    return
                yield line

    def close(self) -> None:
        os.close(self._file)


def _end_of_whole_lines(file: int) -> int:
    """Bytes up to and with the last newline."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 65_536)
        place = os.pread(file, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0
