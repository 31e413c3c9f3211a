"""Seam `saga`: how an order's saga and its next command are written. Value -> the group's worker, made from another."""

from collections.abc import Callable, Mapping

from ablations.saga.two_writes import with_two_writes
from core.inbox.worker import Worker

SAGAS: Mapping[str, Callable[[type[Worker]], type[Worker]]] = {
    "outbox": lambda worker: worker,
    "two_writes": with_two_writes,
}
