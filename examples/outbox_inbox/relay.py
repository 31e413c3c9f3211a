"""Moves committed events to the broker; start several. Arguments: DATABASE_URL kafka|rabbitmq BROKER_URL."""

import sys

from core.outbox.relay import Relay
from examples.outbox_inbox.parcels import messaging, open_broker, open_database, stopped_by_signal

if __name__ == "__main__":
    engine = open_database(sys.argv[1])
    broker = open_broker(sys.argv[2], sys.argv[3])
    publisher = broker.publisher()
    Relay(engine, messaging, publisher).run(stopped_by_signal())
    publisher.close()
