"""The bare client, for the adapter's bench only: what a careful user writes by hand, at the adapter's own settings.

Same records on the wire (body, key and nine headers), same producer and consumer settings, same window. It makes each
record's headers from an event's fields as it sends it, and looks up each record's id and type as it reads it: nobody
can do without. No envelope, no outcome a message, nothing to retry. Beside it the vendor's own tool.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from tempfile import NamedTemporaryFile
from time import monotonic, perf_counter

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from brokers.kafka.codec import Headers
from brokers.kafka.config import KafkaConfig
from brokers.kafka.errors import quiet_logger
from core.messaging.lanes import lane_of

ROUND_S = 120.0
"""A round that takes longer has failed."""
EVENT_HEADERS: Headers = (
    ("ce_specversion", b"1.0"),
    ("content-type", b"application/json"),
    ("ce_source", b"/shop/order"),
    ("ce_type", b"OrderCreated"),
    ("ce_dataschema", b"urn:dataschema:OrderCreated:1"),
)
"""Those that all events of one type share; what differs from event to event is made as it is sent."""


def _id(number: int) -> str:
    return f"01890000-0000-7000-8000-{number:012x}"


class BarePublisher:
    """One producer kept over the rounds, as the adapter keeps its own."""

    def __init__(self, config: KafkaConfig) -> None:
        self._producer = Producer(config.publisher_settings(), logger=quiet_logger())

    def publish_round(
        self,
        topic: str,
        partitions: int,
        bodies: Sequence[bytes],
        keys: Sequence[str],
        window: int,
        headers: Headers = EVENT_HEADERS,
    ) -> float:
        """Seconds until all are confirmed, at most `window` at a time; raises RuntimeError if one is not.

        `headers`: those that all records share; with any, each record has its own id, subject, time and sequence too.
        """
        failed: list[KafkaError] = []

        def report(error: KafkaError, _: Message) -> None:
            failed.append(error)

        produce, flush = self._producer.produce, self._producer.flush
        at = datetime(2026, 1, 1, tzinfo=UTC)
        records = [(body, key, _id(n), n + 1, at) for n, (body, key) in enumerate(zip(bodies, keys, strict=True))]
        started = perf_counter()
        for first in range(0, len(bodies), window):
            for body, key, id_, sequence, occurred_at in records[first : first + window]:
                own: Headers = (
                    ("ce_id", id_),
                    ("ce_subject", key),
                    ("ce_time", occurred_at.isoformat()),
                    ("ce_sequence", str(sequence)),
                )
                wanted = [*headers, *own] if headers else []
                produce(topic, body, key, lane_of(key, partitions), report, headers=wanted)
            if flush(ROUND_S) or failed:
                raise RuntimeError(f"the bare publisher was not confirmed: {failed[:1]}")
        return perf_counter() - started

    def close(self) -> None:
        self._producer.purge()
        self._producer.flush(1.0)


class BareSubscriber:
    """One member kept over the rounds: read value, key, id and type of each message, commit each batch."""

    def __init__(self, config: KafkaConfig, topic: str, group: str) -> None:
        self._consumer = Consumer(config.subscriber_settings(group), logger=quiet_logger())
        self._consumer.subscribe([topic])

    def receive_round(self, count: int, window: int = 500) -> float:
        """Seconds until so many more were received and their positions handed in, batches of at most `window`.

        The first round also joins the group. Raises RuntimeError when the messages do not come.
        """
        deadline = monotonic() + ROUND_S
        started, left = perf_counter(), count
        while left > 0:
            messages = self._consumer.consume(min(window, left), 0)
            if not messages and (message := self._consumer.poll(0.1)) is not None:
                messages = [message]
            next_offsets: dict[tuple[str, int], int] = {}
            for message in messages:
                if message.error() is None:
                    message.value(), message.key()
                    headers = dict(message.headers() or ())
                    if headers:
                        headers["ce_id"].decode(), headers["ce_type"].decode()
                    next_offsets[message.topic(), message.partition()] = message.offset() + 1
            if next_offsets:
                self._consumer.commit(
                    offsets=[TopicPartition(*place, offset) for place, offset in next_offsets.items()],
                    asynchronous=True,
                )
            left -= len(messages)
            if monotonic() > deadline:
                raise RuntimeError(f"the bare subscriber still waits for {left} messages")
        return perf_counter() - started

    def close(self) -> None:
        self._consumer.close()


def vendor_publish_per_s(
    config: KafkaConfig, topic: str, classpath: str, count: int, size_bytes: int, java: str = "java"
) -> float:
    """Records a second by `kafka-producer-perf-test` (org.apache.kafka:kafka-tools) at the adapter's settings.

    The tool sends bodies without key or headers and never waits for a window to be confirmed, so it flatters itself.
    """
    settings = {
        "bootstrap.servers": config.bootstrap_servers,
        "acks": "0" if config.durability == "fire-and-forget" else "all",
        "enable.idempotence": str(config.durability != "fire-and-forget").lower(),
        "linger.ms": str(int(config.linger_ms)),
        "batch.size": str(config.batch_size_bytes),
        "compression.type": config.compression,
        "max.request.size": str(config.message_max_bytes),
        **{name: str(value) for name, value in config.extra.items() if name.startswith(("sasl.", "ssl.", "security."))},
    }
    with NamedTemporaryFile("w", suffix=".properties") as properties:
        # A file and not arguments: what a process was started with is shown to every user of the machine.
        os.chmod(properties.name, 0o600)
        properties.write("".join(f"{name}={value}\n" for name, value in settings.items()))
        properties.flush()
        command = [java, "-cp", classpath, "org.apache.kafka.tools.ProducerPerformance", "--topic", topic]
        numbers = ["--num-records", str(count), "--record-size", str(size_bytes), "--throughput", "-1"]
        ran = subprocess.run(
            [*command, *numbers, "--producer.config", properties.name], capture_output=True, text=True, timeout=ROUND_S
        )
    return vendor_rate(ran.stdout, config.without_secrets(ran.stderr))


def vendor_rate(printed: str, errors: str = "") -> float:
    """The rate in the tool's last line, 'N records sent, R records/sec (…)'; raises RuntimeError if it printed none."""
    rates = re.findall(r"records sent, ([0-9.]+) records/sec", printed)
    if not rates:
        raise RuntimeError(f"kafka-producer-perf-test printed no rate: {(printed + errors)[-500:]}")
    return float(rates[-1])
