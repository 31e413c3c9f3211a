"""RabbitMQ behind the port: quorum, classic or stream queues, over pika or aio-pika."""

from brokers.rabbitmq.broker import RabbitBroker, connect
from brokers.rabbitmq.config import RabbitConfig

__all__ = ["RabbitBroker", "RabbitConfig", "connect"]
