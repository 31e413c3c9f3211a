"""Prints one label a parcel, however often its event comes. Arguments: DATABASE_URL kafka|rabbitmq BROKER_URL."""

import json
import sys
from collections.abc import Sequence

from sqlalchemy import Connection, insert

from core.inbox.handlers import HandlerResult, Poison
from core.inbox.worker import Worker
from core.messaging.envelope import Envelope
from examples.outbox_inbox.parcels import label, messaging, open_broker, open_database, stopped_by_signal


def print_labels(connection: Connection, envelopes: Sequence[Envelope]) -> HandlerResult:
    """In the inbox transaction, for events that are new: one statement for all of them."""
    rows = []
    for envelope in envelopes:
        grams = json.loads(envelope.data)["grams"]
        if grams <= 0:
            raise Poison(envelope.id, f"a parcel of {grams} g has no postage")
        rows.append({"parcel_id": envelope.key, "postage_cents": 100 + grams // 10})
    connection.execute(insert(label), rows)
    return HandlerResult(["label"] * len(envelopes))


if __name__ == "__main__":
    engine = open_database(sys.argv[1])
    broker = open_broker(sys.argv[2], sys.argv[3])
    subscriber = broker.subscriber("labels")
    Worker(engine, messaging, subscriber, "labels", print_labels).run(stopped_by_signal())
    subscriber.close()
