"""publish=after_commit: commit first, then send from the same process (rows S0.23, S2.12, S2.13).

Predicted: lost events under P1 (the process dies between the commit and the publish) and when the broker is off, since
nobody tries again. None under calm.
"""

from collections.abc import Sequence

from ablations.publish.direct import DirectSink
from core.messaging.envelope import Envelope


class AfterCommitSink(DirectSink):
    def after_commit(self, envelopes: Sequence[Envelope]) -> None:
        super().after_commit(envelopes)
        if envelopes:
            self._direct.send(envelopes)
