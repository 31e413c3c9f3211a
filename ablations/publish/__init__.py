"""The seam `publish` in its naive values: who sends an event, and when. The default is `core.outbox.rows.OutboxSink`.

The event row is written in the business transaction in every variant, so the ledger tells the truth; only the sender
differs.
"""

from collections.abc import Callable, Mapping

from ablations.publish.after_commit import AfterCommitSink
from ablations.publish.inline import InlineSink
from core.inbox.retries import RetryPolicy
from core.journey import Probe
from core.messaging.ports import Publisher
from core.outbox.rows import EventSink
from core.storage.tables import MessagingTables

MakesSink = Callable[[MessagingTables, Publisher, Probe | None, RetryPolicy | None], EventSink]

SINKS: Mapping[str, MakesSink] = {
    "inline": InlineSink,
    "after_commit": AfterCommitSink,
}
"""By the seam's value (systems.md 7.8)."""

STRATEGIES: Mapping[str, str] = {"direct-in-transaction": "inline", "direct-after-commit": "after_commit"}
"""PUBLISH_STRATEGY -> the seam's value."""
