"""publish=after_commit: commit first, then send from the same process (rows S0.23, S2.12, S2.13).

Predicted: lost events under P1 (the process dies between the commit and the publish) and when the broker is off, since
nobody tries again. None under calm.
"""

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ablations.publish.direct import DirectPublisher
from core.inbox.retries import RetryPolicy
from core.journey import Probe
from core.messaging.envelope import Envelope
from core.messaging.ports import Publisher
from core.storage.event_store import append
from core.storage.tables import MessagingTables


class AfterCommitSink:
    def __init__(
        self,
        tables: MessagingTables,
        publisher: Publisher,
        probe: Probe | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._tables = tables
        self._direct = DirectPublisher(publisher, probe, retry)

    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        append(target, self._tables, envelopes)

    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        if envelopes:
            self._direct.committed(envelopes)
            self._direct.send(envelopes)

    def close(self) -> None:
        self._direct.close()
