"""saga=two_writes (S3.43): the saga's state is committed first, its next command is written in a second transaction.

Predicted: a crash at `applied` (P10), between the two, leaves a saga whose command was never given; the inbox holds the
event for handled, so nothing gives it again: the saga hangs until its deadline.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from core.inbox.handlers import EventSink
from core.inbox.worker import Worker
from core.inbox.writing import GroupWriting, Written
from core.messaging.envelope import Envelope


class _Nowhere:
    """Takes what the handler wants to publish and writes nothing."""

    def write(self, connection: Connection, envelopes: Sequence[Envelope]) -> None:
        return None

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        return None


class TwoWritings(GroupWriting):
    def __init__(self, one: GroupWriting, worker: Worker) -> None:
        super().__init__(
            worker.tables,
            one.group,
            one.handler,
            probe=one.probe,
            sink=_Nowhere(),
            decode=one.decode,
            journal=one.has_journal,
        )
        self._engine: Engine = worker.engine
        self._second: EventSink = one.sink

    def committed(self, written: Written) -> None:
        super().committed(written)
        if written.publish:
            with self._engine.begin() as connection:
                self._second.write(connection, written.publish)
            self._second.after_commit(written.publish)


def with_two_writes(worker: type[Worker]) -> type[Worker]:
    """The same worker, its handler's events written after its commit."""

    def init(self: Worker, *args: Any, **more: Any) -> None:
        worker.__init__(self, *args, **more)
        self.writing = TwoWritings(self.writing, self)

    return type(f"TwoWrites{worker.__name__}", (worker,), {"__init__": init})
