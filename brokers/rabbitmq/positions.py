"""How far each group has read each stream lane, for as long as this process lives.

AMQP 0.9.1 keeps no position for a stream's reader. So a new process reads from the beginning (the inbox knows what was
applied), unless `replay` said otherwise; a reconnect goes on after the last message acked with all before it.
"""

import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from brokers.rabbitmq.codec import PUBLISHED_MS

Start = str | int | datetime


class Positions:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start: dict[tuple[str, str], Start] = {}
        self._since: dict[str, datetime] = {}
        self._next: dict[tuple[str, str], int] = {}
        self._ahead: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def start(self, group: str, stream: str) -> Start:
        """For `x-stream-offset`. Forgets acks behind a gap: those messages come again."""
        with self._lock:
            self._ahead.pop((group, stream), None)
            return self._next.get((group, stream), self._since.get(group, "first"))

    def arrived(self, group: str, stream: str, offset: int) -> None:
        """The first offset a reader saw is where its unbroken run of acks begins."""
        with self._lock:
            self._next.setdefault((group, stream), offset)

    def acked(self, group: str, stream: str, offset: int) -> None:
        place = (group, stream)
        with self._lock:
            ahead, after = self._ahead[place], self._next.get(place, 0)
            ahead.add(offset)
            while after in ahead:
                ahead.discard(after)
                after += 1
            self._next[place] = after

    def is_before_start(self, group: str, stream: str, headers: Mapping[str, object]) -> bool:
        """A read from an instant begins with the whole chunk that holds it."""
        since, published_ms = self._since.get(group), headers.get(PUBLISHED_MS)
        return since is not None and isinstance(published_ms, int) and published_ms < int(since.timestamp() * 1000)

    def move(self, group: str, since: datetime | None) -> None:
        with self._lock:
            for place in [place for place in self._next if place[0] == group]:
                del self._next[place]
            self._since.pop(group, None)
            if since is not None:
                self._since[group] = since

    def next_offset(self, group: str, stream: str) -> int | None:
        with self._lock:
            return self._next.get((group, stream))
