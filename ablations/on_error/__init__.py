"""Seam `on_error`: what becomes of a message whose handler fails. Value -> worker; the default is core's `Worker`."""

from ablations.on_error.forever import Forever
from ablations.on_error.log_only import LogOnly
from ablations.on_error.requeue import Requeue
from ablations.on_error.swallow import Swallow
from core.inbox.worker import Worker

ON_ERROR: dict[str, type[Worker]] = {
    "retry_dlq": Worker,
    "swallow": Swallow,
    "requeue": Requeue,
    "forever": Forever,
    "log-only": LogOnly,
}
