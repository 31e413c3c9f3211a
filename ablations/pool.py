"""CONSUMER_WORKERS=8 (S2.20): the messages of a batch are handed to a pool of threads, each with its own transaction.

What articles name as the way to more rate than one consumer in sequence gives. Predicted: out_of_order within a key,
under calm already, for two messages of a key are applied at once; nothing is lost or doubled, since each asks the inbox
and the batch is acked when all are done. The rate rises where a message waits for its commit; a batch in one
transaction is quicker still and keeps the order, as do more lanes with a member each.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from core.inbox.worker import Applied, Worker
from core.messaging.ports import Delivery


class Pooled(Worker):
    """In front of any worker's class; `pooled` says how many threads."""

    threads = 1

    def apply_once(self, messages: Sequence[Delivery]) -> Applied:
        with ThreadPoolExecutor(self.threads, thread_name_prefix=f"{self.group}-pool") as pool:
            one_alone = super().apply_once
            done = list(pool.map(lambda message: one_alone([message]), messages))
        return Applied(
            list(chain.from_iterable(one.settled for one in done)),
            list(chain.from_iterable(one.failed for one in done)),
        )


def pooled(build: type[Worker], threads: int) -> type[Worker]:
    """What to build instead of `build`; the same for one thread."""
    return build if threads == 1 else type(f"Pooled{build.__name__}", (Pooled, build), {"threads": threads})
