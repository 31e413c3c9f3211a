"""One Kafka node in KRaft mode as a process of its own: settings, first format, a real publish to know it is ready."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from servers.maven import jars, java
from servers.process import ProcessServer

VERSION = "4.3.1"
# kafka-clients is named although kafka needs it: the resolver would else take an older one that a dependency asks for.
COORDINATES = "+".join(
    (
        f"org.apache.kafka:kafka_2.13:{VERSION}",
        f"org.apache.kafka:kafka-clients:{VERSION}",
        # Kafka speaks slf4j 1.7; without a binding its log is lost.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.1",
        "org.apache.logging.log4j:log4j-core:2.25.1",
    )
)
FOLDER = f"kafka-{VERSION}"
"""Its name in the cache folder."""
READINESS_TOPIC = "testbed-readiness"
MESSAGE_MAX_BYTES = 1_048_588
"""Kafka's own default for one batch, stated because the adapter's local size check follows it."""

LOGGING = """\
status = warn
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
"""


def fetch(cache: Path) -> Path:
    """The folder with Kafka's jars; fetched once."""
    return jars(cache, FOLDER, COORDINATES)


class Kafka(ProcessServer):
    port_names = ("port", "proxied", "controller")

    def __init__(
        self,
        folder: Path,
        cache: Path,
        broker_session_timeout_ms: int = 9_000,
        group_session_timeout_ms: int = 10_000,
        group_heartbeat_interval_ms: int = 1_000,
        proxy_port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`broker_session_timeout_ms`: how long a killed broker's own old session fences it (Kafka's default 9,000).
        `group_session_timeout_ms`: after how long a silent member of a consumer group loses its lanes.
        `proxy_port`: where a proxy stands; clients that come through `ports["proxied"]` are sent back to it.
        `settings`: further lines of server.properties.
        """
        super().__init__("kafka", folder)
        self._cache = cache
        self._broker_session_timeout_ms = broker_session_timeout_ms
        self._group_session_timeout_ms = group_session_timeout_ms
        self._group_heartbeat_interval_ms = group_heartbeat_interval_ms
        self._proxy_port = proxy_port
        self._more = dict(settings or {})

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports['port']}"

    @property
    def version(self) -> str:
        return VERSION

    @property
    def settings(self) -> Mapping[str, str]:
        """server.properties, as the broker gets it."""
        ports = self.ports
        listeners = {"CLIENT": ports["port"], "PROXIED": ports["proxied"], "CONTROLLER": ports["controller"]}
        advertised = {"CLIENT": ports["port"], "PROXIED": self._proxy_port or ports["proxied"]}
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{ports['controller']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MESSAGE_MAX_BYTES),
            "broker.session.timeout.ms": str(self._broker_session_timeout_ms),
            "broker.heartbeat.interval.ms": str(min(2_000, self._broker_session_timeout_ms // 4)),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "5",
            "offsets.retention.minutes": "10080",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "5",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "5",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.session.timeout.ms": str(self._group_session_timeout_ms),
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.max.session.timeout.ms": "600000",
            "group.consumer.heartbeat.interval.ms": str(self._group_heartbeat_interval_ms),
            "group.consumer.min.heartbeat.interval.ms": "100",
            **self._more,
        }

    def prepare(self) -> None:
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self.settings.items()))
        (self.folder / "log4j2.properties").write_text(LOGGING)
        if not (self.folder / "data" / "meta.properties").exists():
            format_ = ["format", "--cluster-id", "dHdvLWJyb2tlcnMtb25lIQ", "--ignore-formatted"]
            self.run([*self._java(), "kafka.tools.StorageTool", *format_, "--config", str(properties)])

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        return [*self._java(), "kafka.Kafka", str(self.folder / "server.properties")], {}

    def _java(self) -> list[str]:
        return [
            java(),
            "-Xms256m",
            "-Xmx1g",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            f"{fetch(self._cache)}/*",
        ]

    def probe(self, timeout_s: float) -> str | None:
        return publish_one(self.url, timeout_s)


def publish_one(bootstrap: str, timeout_s: float) -> str | None:
    """Publish to a topic of our own and see it confirmed; None, or why it was not."""
    reached: dict[str, str | int] = {"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200}
    producer = Producer({**reached, "acks": "all", "message.timeout.ms": int(timeout_s * 1000)})
    outcomes: list[KafkaError | None] = []
    try:
        if producer.list_topics(READINESS_TOPIC, timeout=timeout_s).topics[READINESS_TOPIC].error is not None:
            refused = _make_topic(reached, timeout_s)
            if refused is not None:
                return refused
        producer.produce(READINESS_TOPIC, b"ready?", on_delivery=lambda error, _message: outcomes.append(error))
    except KafkaException as error:
        return str(error.args[0])
    producer.flush(timeout_s)
    if outcomes:
        return None if outcomes[0] is None else str(outcomes[0])
    producer.purge()
    return f"no confirm within {timeout_s:g} s"


def _make_topic(reached: Mapping[str, str | int], timeout_s: float) -> str | None:
    """None, or why it could not be made. Only at the first start: an admin client is best not used while one dies."""
    # Kept in a name: an admin client that is let go of gives up what it was asked.
    admin = AdminClient(reached)
    made = admin.create_topics([NewTopic(READINESS_TOPIC, 1, 1)], request_timeout=timeout_s)
    try:
        error = made[READINESS_TOPIC].exception(timeout_s + 1)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    return None if error is None or error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS else str(error.args[0])
