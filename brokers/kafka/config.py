"""Every Kafka client and topic setting in use, in one frozen value; validated before anything connects.

The settings of each role are plain dictionaries, so that `run.json` and `testbed doctor --settings` show exactly what
the clients are given. Not here: names of topics and groups (`topology`), the broker's own settings (`server`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from brokers.kafka.errors import WrongSetting

Durability = Literal["confirmed", "fsynced", "fire-and-forget"]
GroupProtocol = Literal["consumer", "classic"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Setting = str | int | float | bool

FOREVER_MS = 0
"""librdkafka: message.timeout.ms=0 never expires a message; only the port's time-out gives one up."""
_SECRET = re.compile(r"password|secret|sasl\.username|oauthbearer\.config|\.pem$|token", re.IGNORECASE)
HIDDEN = "***"
LETTER_BYTES = 16_384
"""A dead letter is its message and why it was given up: so much larger than the message it may be."""
BATCH_BYTES = 1_024
"""The broker measures whole record batches; a batch of one largest record must still fit."""
# What the adapter's promises rest on; `extra` may not change them.
_OURS = frozenset(
    {
        "bootstrap.servers",
        "client.id",
        "acks",
        "request.required.acks",
        "enable.idempotence",
        "enable.gapless.guarantee",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "delivery.report.only.error",
        "transactional.id",
        "group.id",
        "group.protocol",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "allow.auto.create.topics",
        "isolation.level",
        "error_cb",
        "logger",
        "on_commit",
    }
)


@dataclass(frozen=True)
class KafkaConfig:
    bootstrap_servers: str
    durability: Durability = "confirmed"
    group_protocol: GroupProtocol = "consumer"
    """`consumer` is KIP-848: the broker assigns, its group settings fix the time-outs; `classic` is older."""
    session_timeout_s: float | None = None
    """After this silence a member's lanes go to another; None: what broker or client have by themselves. The client's
    setting in the classic protocol; in the newer one the group's, which the broker keeps and `declare` gives."""
    linger_ms: float = 5.0
    """How long a record batch may wait to fill; `publish` flushes, so it is never waited out at the end of a batch."""
    compression: Compression = "none"
    batch_size_bytes: int = 1_000_000
    message_max_bytes: int = 2_000_000
    """Largest record (key, headers and body) that is taken; a larger one is REFUSED before it is sent."""
    prefetch_bytes: int = 32 * 1024 * 1024
    """Bound of what the client fetches ahead, a subscriber."""
    retention_s: float = 7 * 24 * 3600.0
    client_id: str = "testbed"
    extra: Mapping[str, Setting] = field(default_factory=dict, repr=False)
    """Further librdkafka settings for every client (security.protocol, sasl.*, ssl.*); values that hide are hidden."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s,/@]+:\d+(,[^\s,/@]+:\d+)*", self.bootstrap_servers):
            # The value is not repeated: a URL given by mistake may carry a password.
            raise WrongSetting("bootstrap_servers", HIDDEN, "give host:port, several separated by commas")
        for name, allowed in (
            ("durability", Durability),
            ("group_protocol", GroupProtocol),
            ("compression", Compression),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise WrongSetting(name, getattr(self, name), f"use one of {', '.join(get_args(allowed))}")
        ranges: tuple[tuple[str, float, float], ...] = (
            *((("session_timeout_s", 1, 1800),) if self.session_timeout_s is not None else ()),
            ("linger_ms", 0, 900_000),
            ("batch_size_bytes", 1, 2_000_000_000),
            ("message_max_bytes", 1_000, 1_000_000_000),
            ("prefetch_bytes", 1024, 2_097_151 * 1024),
            ("retention_s", 1, 3650 * 24 * 3600),
        )
        for name, lowest, highest in ranges:
            if not lowest <= getattr(self, name) <= highest:
                raise WrongSetting(name, getattr(self, name), f"use a number from {lowest:,} to {highest:,}")
        for name in sorted(_OURS & self.extra.keys()):
            raise WrongSetting(f"extra[{name}]", HIDDEN, "leave it out: the adapter sets it, its promises rest on it")

    def client_settings(self) -> dict[str, Setting]:
        """What every client of this process is given."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            # After a restart the broker is found again at once and not after librdkafka's 10 s.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "socket.keepalive.enable": True,
            "socket.nagle.disable": True,
            **self.extra,
        }

    def publisher_settings(self) -> dict[str, Setting]:
        guarantee: dict[str, Setting]
        if self.durability == "fire-and-forget":
            guarantee = {"acks": 0, "enable.idempotence": False, "retries": 0}
        else:
            # A failed batch stops the producer before a later message of its lane can pass: no gap in the log.
            guarantee = {"acks": "all", "enable.idempotence": True, "enable.gapless.guarantee": True}
        return {
            **guarantee,
            "message.timeout.ms": FOREVER_MS,
            "linger.ms": self.linger_ms,
            "compression.type": self.compression,
            "batch.size": self.batch_size_bytes,
            "batch.num.messages": 100_000,
            "message.max.bytes": self.message_max_bytes,
            # The caller holds the batch anyway: the client's own queue must not be the bound.
            "queue.buffering.max.messages": 10_000_000,
            "queue.buffering.max.kbytes": 2_097_151,
            # Below every sensible time-out of the port: a topic that vanished is told before the port gives up.
            "topic.metadata.propagation.max.ms": 1_000,
            "allow.auto.create.topics": False,
            # Successes are counted by the queue running empty, failures are told one by one (kafka-error-only-reports).
            "delivery.report.only.error": True,
            **self.client_settings(),
        }

    def for_letters(self) -> "KafkaConfig":
        """Of a publisher of dead letters: were that of a largest message refused, its key would wait for ever."""
        return replace(self, message_max_bytes=self.message_max_bytes + LETTER_BYTES)

    def fetch_settings(self) -> dict[str, Setting]:
        """Reading without a group: the audit reader and the bare baseline take these too."""
        return {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
            "queued.max.messages.kbytes": max(self.prefetch_bytes // 1024, 1),
            "queued.min.messages": 50_000,
            "fetch.message.max.bytes": min(self.prefetch_bytes, 1_048_576),
            # The default of 1 s stalls a subscriber that drains its queue faster than that.
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
            "fetch.wait.max.ms": 250,
            **self.client_settings(),
        }

    def subscriber_settings(self, group_id: str) -> dict[str, Setting]:
        settings: dict[str, Setting] = {"group.id": group_id, "group.protocol": self.group_protocol}
        if self.group_protocol == "classic":
            if self.session_timeout_s is not None:
                settings["session.timeout.ms"] = int(self.session_timeout_s * 1_000)
                settings["heartbeat.interval.ms"] = max(int(self.session_timeout_s * 1_000 / 3), 1)
            # Moves only the lanes that must move, as the newer protocol does.
            settings["partition.assignment.strategy"] = "cooperative-sticky"
        return {**settings, **self.fetch_settings()}

    def group_settings(self) -> dict[str, str]:
        """What the broker keeps for each consumer group."""
        if self.group_protocol == "classic" or self.session_timeout_s is None:
            return {}
        return {"consumer.session.timeout.ms": str(int(self.session_timeout_s * 1_000))}

    def topic_settings(self) -> dict[str, str]:
        settings = {
            "cleanup.policy": "delete",
            "retention.ms": str(int(self.retention_s * 1_000)),
            "max.message.bytes": str(self.message_max_bytes + LETTER_BYTES + BATCH_BYTES),
        }
        if self.durability == "fsynced":
            settings["flush.messages"] = "1"
        return settings

    def effective_settings(self) -> dict[str, dict[str, str]]:
        """Publisher, subscriber, group and topic settings as text, secrets hidden: for `run.json`, `testbed doctor`."""
        roles: dict[str, Mapping[str, Setting]] = {
            "publisher": self.publisher_settings(),
            "subscriber": self.subscriber_settings("<group>"),
            "group": self.group_settings(),
            "topic": self.topic_settings(),
        }
        return {
            role: {name: HIDDEN if _SECRET.search(name) else str(value) for name, value in sorted(settings.items())}
            for role, settings in roles.items()
        }

    def without_secrets(self, text: str) -> str:
        """The client's own words, with every secret value struck out."""
        for name, value in self.extra.items():
            if _SECRET.search(name) and str(value):
                text = text.replace(str(value), HIDDEN)
        return text
