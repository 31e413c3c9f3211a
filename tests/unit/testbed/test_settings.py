"""Settings: refused with name, value and mend; strategies and seams say what is in force."""

import pytest

from testbed.equivalence import equivalents, rabbit_config
from testbed.settings import SettingError, read_settings
from testbed.wiring import as_environment, connect_broker, effective_settings, outside_world


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BROKER", "nats", "BROKER='nats' is refused: use one of kafka, rabbitmq, memory"),
        ("PARTITIONS", "0", "PARTITIONS='0' is refused"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost", "use host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:99999", "use host:port"),
        ("RABBITMQ_URL", "http://x", "amqp://user:password@host:5672/"),
        ("RABBITMQ_URL", "amqp://x:port/", "RABBITMQ_URL"),
        ("DATABASE_URL", "mysql://x/y", "postgresql+psycopg://user@host:5432/name"),
        ("SEAMS", '{"relay.claim": "hope"}', "relay.claim=hope: use one of lease"),
        ("SEAMS", '{"hope": "x"}', "no seam 'hope'"),
        ("SEAMS", "{bad", "SEAMS='{bad' is refused: Expecting property name"),
        ("DURABILITY", "safe", "use one of confirmed, fsynced, fire-and-forget"),
        ("RETENTION_CLAIMS_S", "604800", "greater than or equal to 1296000"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as refused:
        read_settings()
    assert said in str(refused.value)
    assert name in str(refused.value)


def test_a_password_in_a_refused_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "http://user:hunter2@host/")
    with pytest.raises(SettingError) as refused:
        read_settings()
    assert "hunter2" not in str(refused.value)


def test_a_secret_has_a_default_in_development_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().secret
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SettingError, match="JWT_SECRET"):
        _ = read_settings().secret


@pytest.mark.parametrize(("url", "lack"), [("", "is empty"), ("amqp://host:5672/", "names no password")])
def test_production_on_rabbitmq_without_its_address_and_password_is_refused_at_the_start(url: str, lack: str) -> None:
    connect_broker(read_settings(broker="rabbitmq", rabbitmq_url=url))
    with pytest.raises(SettingError, match=f"RABBITMQ_URL {lack} and ENVIRONMENT=production: set it, e.g. amqp://"):
        connect_broker(read_settings(broker="rabbitmq", rabbitmq_url=url, environment="production"))


def test_production_on_kafka_or_with_an_address_of_rabbitmq_is_taken_as_it_is() -> None:
    with_address = read_settings(broker="rabbitmq", rabbitmq_url="amqp://u:p@h:5672/", environment="production")
    assert rabbit_config(with_address).url == "amqp://u:p@h:5672/"
    on_kafka = read_settings(broker="kafka", environment="production")
    connect_broker(on_kafka)
    assert equivalents(on_kafka) == equivalents(read_settings(broker="kafka"))


def test_a_strategy_sets_its_seams_and_a_seam_said_by_name_wins() -> None:
    assert read_settings(publish_strategy="outbox-naive").seam("relay.claim") == "none"
    assert read_settings(consume_strategy="ack-first").seam("ack") == "before"
    named = read_settings(publish_strategy="outbox-naive", seams={"relay.claim": "lock"})
    assert named.seam("relay.claim") == "lock"
    assert read_settings().seam("relay.claim") == "lease"


def test_another_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = read_settings(broker="rabbitmq", seams={"ack": "before"}, audit=False, publish_timeout_s=2.5)
    for name, value in as_environment(mine).items():
        monkeypatch.setenv(name, value)
    assert read_settings() == mine


@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_a_run_tells_every_client_setting_and_no_password(broker: str) -> None:
    settings = read_settings(broker=broker, rabbitmq_url="amqp://u:hunter2@h:5672/", jwt_secret="x" * 40)
    told = str(effective_settings(settings))
    assert "publisher" in told
    assert "hunter2" not in told
    assert "x" * 40 not in told


def shown(broker: str, promise: str, **more: object) -> tuple[str, str]:
    """What the table of equivalent settings says for Kafka and for RabbitMQ."""
    (row,) = [row for row in equivalents(read_settings(broker=broker, **more)) if row.promise == promise]
    return row.kafka, row.rabbitmq


@pytest.mark.parametrize(
    ("more", "kafka", "heartbeat_s"),
    [
        ({}, "consumer.session.timeout.ms=30000;", 10),
        ({"session_timeout_s": 60.0}, "consumer.session.timeout.ms=60000;", 20),
        ({"session_timeout_s": 6.0, "kafka_group_protocol": "classic"}, "session.timeout.ms=6000;", 2),
        ({"session_timeout_s": 8.0}, "consumer.session.timeout.ms=8000;", 2),
        ({"session_timeout_s": 1.0}, "consumer.session.timeout.ms=1000;", 1),
    ],
)
def test_the_session_time_out_is_shown_as_what_each_broker_makes_of_it(
    more: dict[str, object], kafka: str, heartbeat_s: int
) -> None:
    told = shown("kafka", "a member that fell silent loses its lanes", **more)
    assert told[0].startswith(kafka)
    assert told[1].startswith(f"heartbeat_s={heartbeat_s}: after two to three;")
    here = read_settings(broker="rabbitmq", **more)
    assert rabbit_config(here).heartbeat_s == heartbeat_s
    assert rabbit_config(here).heartbeat_s * 3 <= max(3, here.session_timeout_s)


def test_a_setting_that_a_broker_has_not_is_never_shown_as_in_force() -> None:
    ours = {"linger_ms": 50.0, "compression": "zstd"}
    told = [
        shown("rabbitmq", f"{what}", **ours)
        for what in ("small messages wait to leave together", "messages are compressed")
    ]
    assert [kafka.partition(",")[0] for kafka, _ in told] == ["linger.ms=50.0", "compression.type=zstd"]
    assert [rabbit for _, rabbit in told] == [
        "no such setting (LINGER_MS does nothing)",
        "no such setting (COMPRESSION does nothing)",
    ]
    by_broker = {
        broker: effective_settings(read_settings(broker=broker, **ours)) for broker in ("kafka", "rabbitmq", "memory")
    }
    assert {"linger_ms", "compression", "kafka_group_protocol"} <= by_broker["kafka"].keys()
    assert not {"linger_ms", "compression", "kafka_group_protocol"} & (
        by_broker["rabbitmq"].keys() | by_broker["memory"].keys()
    )
    assert "rabbitmq_client" in by_broker["rabbitmq"]
    assert "rabbitmq_client" not in by_broker["kafka"]
    assert "session_timeout_s" not in by_broker["memory"]
    assert {"consumer.session.timeout.ms": "30000"} in by_broker["kafka"]["kafka"].values()  # type: ignore[attr-defined]


def test_a_type_that_this_shop_does_not_know_is_handed_over_by_kafka_alone() -> None:
    kafka, rabbitmq = shown("kafka", "an event type that this shop does not know")
    assert kafka.startswith("handed to each group")
    assert "returned to a publisher that sets mandatory, dropped otherwise" in rabbitmq


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"mails": {"failure_ratio": 2}}', "mails: failure_ratio: "),
        ('{"pigeons": {}}', "pigeons: "),
        ("{", "OUTSIDE_WORLD_BEHAVIOUR="),
    ],
)
def test_a_behaviour_that_the_outside_world_cannot_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("OUTSIDE_WORLD_BEHAVIOUR", value)
    with pytest.raises(SettingError) as refused:
        read_settings()
    assert said in str(refused.value)


def test_a_behaviour_reaches_another_process_as_it_was_set() -> None:
    set_here = read_settings(outside_world_behaviour='{"mails": {"failure_ratio": 0.3}}')
    there = read_settings(outside_world_behaviour=as_environment(set_here)["OUTSIDE_WORLD_BEHAVIOUR"])
    assert there.outside_world_behaviour == set_here.outside_world_behaviour
    assert there.outside_world_behaviour.mails is not None


def test_production_without_an_outside_world_is_refused_and_development_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outside_world(read_settings())
    assert "every outside call is taken as done" in caplog.text
    with pytest.raises(SettingError, match="OUTSIDE_WORLD_URL"):
        outside_world(read_settings(environment="production"))
