"""relay.confirm=none: hand the batch to the sender and call it confirmed at once (rows S0.38, S1.16).

Predicted: lost events when the broker is away or paused while the relay goes on, and when the process dies with
batches still in memory. None under calm.
"""

import queue
import threading
from collections.abc import Sequence

from core.messaging.envelope import Envelope
from core.messaging.outcomes import CONFIRMED, Outcome
from core.messaging.ports import Publisher

WAITING_BATCHES = 64
"""More than this many unsent batches make the relay wait, as a client's full send buffer does."""


class UnawaitedPublisher:
    """Answers CONFIRMED before anything was sent; what the real publisher answers is never looked at."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._batches: queue.Queue[tuple[Sequence[Envelope], float] | None] = queue.Queue(WAITING_BATCHES)
        self._thread: threading.Thread | None = None

    def publish(self, batch: Sequence[Envelope], timeout_s: float) -> Sequence[Outcome]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send, name="unawaited-sender", daemon=True)
            self._thread.start()
        self._batches.put((batch, timeout_s))
        return [CONFIRMED] * len(batch)

    def close(self) -> None:
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
            self._thread = None
        self._publisher.close()

    def _send(self) -> None:
        while (item := self._batches.get()) is not None:
            self._publisher.publish(*item)
