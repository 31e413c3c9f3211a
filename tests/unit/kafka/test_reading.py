"""Headers that the client cannot give make one record malformed, and no other."""

import pytest

from brokers.kafka import reading
from brokers.kafka.codec import WireHeaders


class Told:
    """A message whose headers raise at the first call, as the client's do over a name that is no UTF-8."""

    def __init__(self, found: WireHeaders | None, raises: bool = False) -> None:
        self._found, self._raises = found, raises

    def headers(self) -> WireHeaders | None:
        if self._raises:
            self._raises = False
            raise SystemError("returned a result with an exception set")
        return self._found

    def set_headers(self, headers: WireHeaders) -> None:
        self._found = headers


def test_a_header_name_that_is_no_utf_8_leaves_its_neighbours_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "Message", Told)
    whole: WireHeaders = [("ce_id", b"1")]
    messages = [Told(whole), Told(whole, raises=True), Told(None), Told(whole, raises=True), Told(whole)]
    expected = [whole, reading.UNREADABLE, None, reading.UNREADABLE, whole]
    assert reading.headers_of_all(messages) == expected  # type: ignore[arg-type]
    assert reading.headers_of_all(messages) == expected  # type: ignore[arg-type]
