"""What service, relay and consumer agree on: the tables, the topics, the database and the broker."""

import signal
from threading import Event

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, create_engine

from brokers import kafka, rabbitmq
from core.messaging.ports import Broker
from core.messaging.topology import Route, Topology
from core.storage.schema import create_schema
from core.storage.tables import messaging_tables

metadata = MetaData()
messaging = messaging_tables(metadata, schema="messaging", source_prefix="/post/")
parcel = Table("parcel", metadata, Column("id", String, primary_key=True), Column("grams", Integer, nullable=False))
label = Table("label", metadata, Column("parcel_id", String), Column("postage_cents", Integer, nullable=False))

ROUTES = {"ParcelRegistered": Route("parcels", "parcel.registered")}
TOPOLOGY = Topology(ROUTES, subscriptions={"labels": frozenset({"ParcelRegistered"})})


def open_database(url: str) -> Engine:
    create_schema(engine := create_engine(url), metadata, messaging)
    return engine


def open_broker(name: str, url: str) -> Broker:
    if name == "kafka":
        broker = kafka.connect(kafka.KafkaConfig(url), TOPOLOGY)
    else:
        broker = rabbitmq.connect(rabbitmq.RabbitConfig(url), TOPOLOGY)
    broker.admin().declare()
    return broker


def stopped_by_signal() -> Event:
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop
