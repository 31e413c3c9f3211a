"""publish=inline: send inside the transaction, before it commits (rows S0.24, S2.11, S2.13).

Predicted: phantoms under P2 (the process dies, or the commit fails, after the broker confirmed); lost events when the
broker is off, since the failure is only logged. None under calm.
"""

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from ablations.publish.direct import DirectSink
from core.messaging.envelope import Envelope


class InlineSink(DirectSink):
    def write(self, target: Session | Connection, envelopes: Sequence[Envelope]) -> None:
        super().write(target, envelopes)
        if envelopes:
            self._direct.send(envelopes)
