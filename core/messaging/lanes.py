"""Which ordered lane a key falls into: one hash for Kafka partitions, RabbitMQ shards and outbox buckets."""

from zlib import crc32


def lane_of(key: str, lanes: int) -> int:
    """CRC-32 (zlib) of the UTF-8 key modulo `lanes`; equals librdkafka's partitioner `consistent`.

    Never Python's `hash()`: it is salted by process, so two relays would disagree.
    """
    return crc32(key.encode()) % lanes
