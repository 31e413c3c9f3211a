"""One partition that a subscriber holds: what is in hand, what waits for a retry, how far it is acked. No I/O.

A new assignment of the same partition is a new Lane, so a delivery of the old one is recognised by its token.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from core.messaging.ports import Delivery


@dataclass
class Waiting:
    """The messages of one key behind a failed one, that one first, in the lane's order."""

    due_s: float
    queue: list[Delivery]


@dataclass(eq=False)
class Lane:
    topic: str
    """As the broker calls it."""
    partition: int
    next_offset: int | None = None
    """After the last message read; None before the first."""
    unacked: dict[int, None] = field(default_factory=dict)
    """Offsets read and not yet acked, in the lane's order: with the worker, or waiting here."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    committed: int | None = None
    """The position last asked for; None where it has to be told again."""
    answered: int = 0
    """The furthest position that the broker has taken."""
    is_paused: bool = False
    is_ours: bool = True

    def position(self) -> int | None:
        """The next message to read after a restart: Kafka's word for 'all before it are acked'."""
        return next(iter(self.unacked), self.next_offset)

    def holds(self, offset: int) -> bool:
        return self.is_ours and offset in self.unacked

    def settle(self, offsets: Iterable[int]) -> bool:
        """Whether any was this lane's to settle; not when the lane was given away, nor a second time."""
        before = len(self.unacked)
        deque(map(self.unacked.pop, offsets, repeat(None)), maxlen=0)
        return len(self.unacked) < before

    def wait(self, failed: Delivery, after_s: float, held: Sequence[Delivery], now_s: float) -> None:
        """Keep `failed` (one attempt more) and `held` until the time has come; what waits already comes after them."""
        offset = offset_of(failed)
        if not self.holds(offset):
            return
        again = failed._replace(attempts=failed.attempts + 1)
        back = {offset: again} | {offset_of(d): d for d in held if d.token[0] is self and self.holds(offset_of(d))}  # type: ignore[index]
        behind = self.waiting.get(failed.key)
        for delivery in behind.queue if behind else ():
            back.setdefault(offset_of(delivery), delivery)
        self.waiting[failed.key] = Waiting(now_s + after_s, [back[number] for number in sorted(back)])

    def join_queue(self, delivery: Delivery) -> bool:
        """Whether its key waits: then it is kept behind it."""
        queue = self.waiting.get(delivery.key)
        if queue is None:
            return False
        queue.queue.append(delivery)
        return True

    def take_due(self, now_s: float, max_messages: int) -> list[Delivery]:
        """Messages of keys whose wait is over, in order; a queue that does not fit goes on next time."""
        taken: list[Delivery] = []
        for key in [key for key, waiting in self.waiting.items() if waiting.due_s <= now_s]:
            queue = self.waiting[key].queue
            room = max_messages - len(taken)
            taken += queue[:room]
            del queue[:room]
            if not queue:
                del self.waiting[key]
        return [delivery for delivery in taken if self.holds(offset_of(delivery))]

    def next_due(self) -> float:
        return min((waiting.due_s for waiting in self.waiting.values()), default=float("inf"))

    def waiting_messages(self) -> int:
        return sum(len(waiting.queue) for waiting in self.waiting.values())

    def abandon(self) -> None:
        self.is_ours = False
        self.unacked.clear()
        self.waiting.clear()


Token = tuple[Lane, int]
"""A delivery's lane and its offset there. Made once a message: a plain tuple costs a third of a named one."""


def offset_of(delivery: Delivery) -> int:
    offset: int = delivery.token[1]  # type: ignore[index]
    return offset
