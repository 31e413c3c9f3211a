"""The settings of every process, read once from the environment; nothing below `testbed/` reads it.

A wrong value is refused at start with the setting's name, the value and what is allowed.
"""

import json
import os
import re
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from servers.outside_world.behaviour import Behaviours

BrokerName = Literal["kafka", "rabbitmq", "memory"]
PublishStrategy = Literal[
    "direct-in-transaction",
    "direct-after-commit",
    "outbox-naive",
    "outbox-for-update",
    "outbox-skip-locked",
    "outbox-leased",
]
ConsumeStrategy = Literal["none", "ack-first", "check-then-act", "unique-constraint", "lock", "two-stage", "inbox"]
SEAMS: dict[str, tuple[str, ...]] = {
    "flow": ("saga", "choreography_parallel", "sync"),
    "saga": ("outbox", "two_writes"),
    "publish": ("outbox", "inline", "after_commit"),
    "relay.claim": ("lease", "none", "lock", "for_update", "skip_locked"),
    "relay.confirm": ("await", "none"),
    "relay.order": ("hold_key", "ignore"),
    "ack": ("atomic", "before", "never", "after"),
    "inbox": ("atomic", "off", "exception", "upsert", "record_first", "check_then_act", "two_stage", "lock"),
    "inbox.key": ("group_event", "event"),
    "on_error": ("retry_dlq", "swallow", "requeue", "forever", "log-only"),
    "metrics": ("atomic", "trylock_skip", "read_modify_write"),
    "metrics.cache": ("off", "refresh", "increment"),
}
"""Seam -> values, the default first (systems.md 7.8)."""
NUMBERS = {"consumer.workers": "consumer_workers", "session_timeout": "session_timeout_s", "linger": "linger_ms"}
"""The numbers that stand beside the seams there -> the settings that they are, where the names differ."""

RABBITMQ_EXAMPLE = "amqp://user:password@host:5672/"
DEVELOPMENT_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672/"
DEVELOPMENT_SECRET = "development-only-secret-of-the-testbed"


class SettingError(ValueError):
    """A setting has a value it may not have; the message names the setting, the value and the mend."""


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _read_json(value: object) -> object:
    """Text from the environment and from `--set`."""
    return json.loads(value or "{}") if isinstance(value, str) else value


class Settings(BaseSettings):
    """One field a setting; the environment's name is the field's in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, hide_input_in_errors=True)

    broker: Annotated[BrokerName, BeforeValidator(_lower)] = "kafka"
    database_url: str = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    kafka_group_protocol: Annotated[Literal["consumer", "classic"], BeforeValidator(_lower)] = "consumer"
    rabbitmq_url: str = ""
    """Empty: `rabbitmq_address` says what it is in development."""
    rabbitmq_management_url: str = ""
    """http://user:password@host:port; empty: lag counts only what waits ready."""
    rabbitmq_queue_type: Annotated[Literal["quorum", "classic", "stream"], BeforeValidator(_lower)] = "quorum"
    rabbitmq_client: Annotated[Literal["pika", "aio-pika"], BeforeValidator(_lower)] = "pika"
    durability: Annotated[Literal["confirmed", "fsynced", "fire-and-forget"], BeforeValidator(_lower)] = "confirmed"
    publish_strategy: Annotated[PublishStrategy, BeforeValidator(_lower)] = "outbox-leased"
    consume_strategy: Annotated[ConsumeStrategy, BeforeValidator(_lower)] = "inbox"
    seams: Annotated[dict[str, str], NoDecode, BeforeValidator(_read_json)] = Field(default_factory=dict)
    """Seam -> value, over what the two strategies name; JSON in the environment."""
    message_max_bytes: int = Field(2_000_000, ge=1_000, le=8_000_000)
    partitions: int = Field(3, ge=1, le=256)
    audit: bool = True
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,60}$")
    publish_timeout_s: float = Field(5.0, gt=0.1, le=300)
    session_timeout_s: float = Field(30.0, ge=1, le=600)
    """Of silence, after which a consumer's lanes go to another. Kafka: of the group, given by `testbed init` and at the
    start of a run (classic protocol: of the client). RabbitMQ: three heartbeats."""
    linger_ms: float = Field(5.0, ge=0, le=1_000)
    compression: Annotated[Literal["none", "gzip", "snappy", "lz4", "zstd"], BeforeValidator(_lower)] = "none"
    batch: int = Field(0, ge=0, le=10_000)
    """Most messages a transaction of a consumer; 0: each group's own (core/effects/table.py)."""
    consumer_workers: int = Field(1, ge=1, le=64)
    """Threads that share each batch of a consumer; more than 1 gives up the order of a key (ablations/pool.py)."""
    relay_batch: int = Field(2_000, ge=1, le=10_000)
    relay_lease_s: float = Field(5.0, gt=0.1, le=300)
    relay_poll_s: float = Field(0.2, gt=0, le=60)
    retention_check_s: float = Field(3_600.0, ge=0.1, le=86_400)
    """The relay looks for what is too old at each full so much of the clock: hourly at minute 0."""
    retention_events_s: float = Field(7 * 86_400.0, ge=3_600, le=3_650 * 86_400)
    """How long an event is kept after it left the outbox."""
    retention_claims_s: float = Field(30 * 86_400.0, ge=15 * 86_400, le=3_650 * 86_400)
    """How long a group knows what it handled, after the event itself is gone. No shorter than a broker's log can still
    hand over an event: on Kafka its seven days, counted from when the segment's seven days are full."""
    retention_answers_s: float = Field(30 * 86_400.0, ge=86_400, le=3_650 * 86_400)
    """How long an Idempotency-Key gets the answer it got."""
    prefetch: int = Field(2_000, ge=1, le=100_000)
    retry_policy: Annotated[
        Literal["default", "article-s2", "article-s3-kafka", "article-s3-rabbitmq", "article-s4"],
        BeforeValidator(_lower),
    ] = "default"
    after_dead_letter: Annotated[Literal["follow", "wait"], BeforeValidator(_lower)] = "follow"
    groups: str = Field("", pattern=r"^[a-z,-]*$")
    """The consumer groups there are, with commas between; empty: all of them (core/effects/table.py)."""
    saga_deadline_s: float = Field(60.0, gt=0.1, le=86_400)
    """How long a step of an order's saga may take before the saga is wound up."""
    metrics_cache_s: float = Field(2.0, ge=0.05, le=86_400)
    """How far behind their table product metrics read through the cache may be; seam `metrics.cache` says if there is
    one, and how it is written."""
    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=0, le=65_535)
    outside_world_url: str = ""
    """Where `testbed outside-world` answers; empty: in development every outside call is taken as done."""
    outside_world_timeout_s: float = Field(2.0, ge=0.05, le=60)
    """Of each call to it."""
    outside_world_behaviour: Annotated[Behaviours, NoDecode, BeforeValidator(_read_json)] = Behaviours()
    """How it behaves from its start: JSON, kind -> what differs from the well-behaved."""
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = "text"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(0, ge=0, le=65_535)
    """Where a relay or consumer answers /metrics; 0: nowhere. The API answers it on its own port."""
    lag_alarm_messages: int = Field(10_000, ge=0)
    """A group further behind than this shows an alarm in its metrics."""
    environment: Annotated[Literal["development", "production"], BeforeValidator(_lower)] = "development"
    jwt_secret: str = ""
    phone_secret: str = ""
    """Keys the hashes of phone numbers: whoever changes it does not find earlier applications any more."""
    seed: int = 0
    history_dir: str = ""
    """Where this process writes its history; empty: it keeps none."""
    crash_at: str = ""
    """STEP[@EPOCH_S]: SIGKILL this process when it first reaches the step at or after the instant."""

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        return _checked_url(value, ("postgresql+psycopg", "postgresql"), "postgresql+psycopg://user@host:5432/name")

    @field_validator("rabbitmq_url")
    @classmethod
    def _rabbitmq(cls, value: str) -> str:
        return value and _checked_url(value, ("amqp", "amqps"), RABBITMQ_EXAMPLE)

    @field_validator("outside_world_url")
    @classmethod
    def _outside_world(cls, value: str) -> str:
        return value and _checked_url(value, ("http", "https"), "http://127.0.0.1:8900")

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _kafka(cls, value: str) -> str:
        for server in value.split(","):
            if not re.fullmatch(r"\s*[^\s:/]+:\d{1,5}\s*", server) or int(server.rsplit(":", 1)[1]) > 65_535:
                raise ValueError("use host:port[,host:port…]")
        return value

    @field_validator("seams")
    @classmethod
    def _seams(cls, value: dict[str, str]) -> dict[str, str]:
        for seam, choice in value.items():
            if seam not in SEAMS:
                raise ValueError(f"no seam {seam!r}; seams are {', '.join(SEAMS)}")
            if choice not in SEAMS[seam]:
                raise ValueError(f"{seam}={choice}: use one of {', '.join(SEAMS[seam])}")
        return value

    @property
    def secret(self) -> str:
        """The key tokens are signed with; has a default in development only."""
        if self.jwt_secret:
            return self.jwt_secret
        if self.environment == "development":
            return DEVELOPMENT_SECRET
        raise SettingError("JWT_SECRET is empty and ENVIRONMENT=production: set it to at least 32 random characters")

    @property
    def rabbitmq_address(self) -> str:
        """Where RabbitMQ answers. Neither address nor password has a default outside development."""
        if self.environment == "development":
            return self.rabbitmq_url or DEVELOPMENT_RABBITMQ
        if not urlsplit(self.rabbitmq_url).password:
            # Clients fill in guest:guest for an address without.
            lack = "names no password" if self.rabbitmq_url else "is empty"
            raise SettingError(f"RABBITMQ_URL {lack} and ENVIRONMENT=production: set it, e.g. {RABBITMQ_EXAMPLE}")
        return self.rabbitmq_url

    @property
    def phone_key(self) -> str:
        """Empty in development: then it follows from the other secret."""
        if not self.phone_secret and self.environment != "development":
            raise SettingError("PHONE_SECRET is empty and ENVIRONMENT=production: set it to a random text")
        return self.phone_secret

    def seam(self, name: str) -> str:
        """The value in force: `--set seam=value`, else what the strategies name, else the default."""
        if name in self.seams:
            return self.seams[name]
        bundled = _PUBLISH_BUNDLES[self.publish_strategy] | _CONSUME_BUNDLES[self.consume_strategy]
        return bundled.get(name, SEAMS[name][0])


_PUBLISH_BUNDLES: dict[str, dict[str, str]] = {
    "direct-in-transaction": {"publish": "inline"},
    "direct-after-commit": {"publish": "after_commit"},
    "outbox-naive": {"relay.claim": "none", "relay.order": "ignore"},
    "outbox-for-update": {"relay.claim": "for_update"},
    "outbox-skip-locked": {"relay.claim": "skip_locked"},
    "outbox-leased": {},
}
_CONSUME_BUNDLES: dict[str, dict[str, str]] = {
    "none": {"inbox": "off"},
    "ack-first": {"ack": "before", "inbox": "off"},
    "check-then-act": {"inbox": "check_then_act"},
    "unique-constraint": {"inbox": "record_first"},
    "lock": {"inbox": "lock"},
    "two-stage": {"inbox": "two_stage"},
    "inbox": {},
}


def _checked_url(value: str, schemes: tuple[str, ...], example: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{error}; use e.g. {example}") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"use e.g. {example}")
    return value


def read_settings(**overrides: Any) -> Settings:
    """Read the environment once. Raises SettingError, one line a wrong setting."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingError("\n".join(_explain(problem, overrides) for problem in error.errors())) from None


def _explain(problem: Any, overrides: dict[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    value = overrides.get(name, os.environ.get(name.upper(), os.environ.get(name)))
    shown = "…hidden…" if "secret" in name else re.sub(r"//[^@/]*@", "//…@", repr(value))
    field = Settings.model_fields.get(name)
    allowed = [str(choice) for choice in get_args(field.annotation)] if field is not None else []
    if problem["type"] == "literal_error" and allowed:
        mend = f"use one of {', '.join(allowed)}"
    else:
        mend = str(problem["msg"]).removeprefix("Value error, ")
    inside = "".join(f"{part}: " for part in problem["loc"][1:])
    return f"{name.upper()}={shown} is refused: {inside}{mend}"
