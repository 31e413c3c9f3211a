"""Seam `ack`: when the broker may forget. Value -> worker; the default is core's `Worker`."""

from ablations.ack.after import AckAfter
from ablations.ack.before import AckBefore
from ablations.ack.never import AckNever
from core.inbox.worker import Worker

ACK: dict[str, type[Worker]] = {"atomic": Worker, "before": AckBefore, "after": AckAfter, "never": AckNever}
