"""A role that ends by an error says so to whoever supervises its process."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from core.messaging.ports import Delivery
from core.messaging.topology import DEAD_LETTER_GROUP
from testbed import roles, wiring
from testbed.settings import read_settings


class Subscriber:
    def __init__(self, stop: threading.Event, is_broken: bool) -> None:
        self._stop, self._is_broken = stop, is_broken

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        if self._is_broken:
            raise RuntimeError("nobody foresaw this")
        self._stop.set()
        return []

    def close(self) -> None:
        return None


def consume(monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    stop = threading.Event()
    broker = SimpleNamespace(subscriber=lambda group, prefetch: Subscriber(stop, is_broken))
    monkeypatch.setattr(wiring, "connect_broker", lambda settings: broker)
    monkeypatch.setattr(roles, "stop_on_signal", lambda: stop)
    roles.consume(read_settings(broker="kafka"), [DEAD_LETTER_GROUP])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_consumer_whose_group_ended_by_an_error_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        consume(monkeypatch, is_broken=True)
    assert ended.value.code == 2


def test_a_consumer_that_was_asked_to_stop_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    consume(monkeypatch, is_broken=False)
