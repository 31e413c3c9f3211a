"""Seam `inbox`: how a group knows that it handled an event before. Value -> worker; the default is core's `Worker`."""

from ablations.inbox.check_then_act import CheckThenAct
from ablations.inbox.event_key import EventKey
from ablations.inbox.exception import ExceptionInbox
from ablations.inbox.locked import Locked
from ablations.inbox.off import InboxOff
from ablations.inbox.record_first import RecordFirst
from ablations.inbox.two_stage import TwoStage
from ablations.inbox.upsert import UpsertInbox
from core.inbox.worker import Worker

INBOX: dict[str, type[Worker]] = {
    "atomic": Worker,
    "off": InboxOff,
    "exception": ExceptionInbox,
    "upsert": UpsertInbox,
    "record_first": RecordFirst,
    "check_then_act": CheckThenAct,
    "lock": Locked,
    "two_stage": TwoStage,
}

INBOX_KEY: dict[str, type[Worker]] = {"group_event": Worker, "event": EventKey}
"""Seam `inbox.key`."""
