"""Settings: refused with name, value and mend; tiers map to real settings; secrets never show."""

from datetime import UTC, datetime
from typing import Any

import pytest

from brokers.kafka.baseline import vendor_rate
from brokers.kafka.codec import failure_headers
from brokers.kafka.config import KafkaConfig
from brokers.kafka.errors import WrongSetting
from core.messaging.ports import Failure

HERE = "127.0.0.1:9092"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("durability", "perhaps"),
        ("group_protocol", "eager"),
        ("compression", "rar"),
        ("session_timeout_s", 0),
        ("linger_ms", -1),
        ("batch_size_bytes", 0),
        ("message_max_bytes", 10),
        ("prefetch_bytes", 0),
        ("retention_s", 0),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_value(setting: str, value: Any) -> None:
    with pytest.raises(WrongSetting, match=f"{setting}={value} cannot be used: use "):
        KafkaConfig(HERE, **{setting: value})


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(WrongSetting) as caught:
        KafkaConfig("kafka://user:hunter2@example:9092")
    assert "hunter2" not in str(caught.value)
    assert "host:port" in str(caught.value)


def test_what_the_promises_rest_on_cannot_be_changed_by_an_extra_setting() -> None:
    with pytest.raises(WrongSetting, match=r"message\.timeout\.ms"):
        KafkaConfig(HERE, extra={"message.timeout.ms": 1000})


def test_tiers_map_to_acks_idempotence_and_flushing() -> None:
    confirmed, fsynced = KafkaConfig(HERE), KafkaConfig(HERE, durability="fsynced")
    forgotten = KafkaConfig(HERE, durability="fire-and-forget")
    assert confirmed.publisher_settings()["acks"] == fsynced.publisher_settings()["acks"] == "all"
    assert confirmed.publisher_settings()["enable.idempotence"] is True
    assert forgotten.publisher_settings()["acks"] == 0
    assert "flush.messages" not in confirmed.topic_settings()
    assert fsynced.topic_settings()["flush.messages"] == "1"


def test_the_dead_letter_of_a_largest_message_is_taken_by_client_and_topic() -> None:
    config = KafkaConfig(HERE, message_max_bytes=10_000)
    longest = Failure("ż" * 1_000, 2**31, *[datetime.max.replace(tzinfo=UTC)] * 2)
    headers = failure_headers(longest, "g" * 100, "t" * 249, 9_999, 2**63)
    letter_bytes = 10_000 + sum(len(name) + len(str(value).encode()) + 10 for name, value in headers)
    for_letters = config.for_letters()
    assert config.publisher_settings()["message.max.bytes"] == 10_000
    assert letter_bytes < int(for_letters.publisher_settings()["message.max.bytes"])
    assert int(for_letters.publisher_settings()["message.max.bytes"]) < int(
        config.topic_settings()["max.message.bytes"]
    )


def test_the_session_time_out_is_the_clients_in_the_classic_protocol_and_the_groups_in_the_newer_one() -> None:
    classic, newer = (KafkaConfig(HERE, group_protocol=name, session_timeout_s=3.0) for name in ("classic", "consumer"))
    assert classic.subscriber_settings("g")["session.timeout.ms"] == 3000
    assert classic.group_settings() == {}
    assert "session.timeout.ms" not in newer.subscriber_settings("g")
    assert newer.group_settings() == newer.effective_settings()["group"] == {"consumer.session.timeout.ms": "3000"}
    by_themselves = [KafkaConfig(HERE, group_protocol=name) for name in ("classic", "consumer")]
    assert [config.group_settings() for config in by_themselves] == [{}, {}]
    assert not any("session.timeout.ms" in config.subscriber_settings("g") for config in by_themselves)


def test_effective_settings_and_texts_hide_every_secret() -> None:
    extra = {"sasl.username": "shop-user", "sasl.password": "hunter2", "security.protocol": "SASL_SSL"}
    config = KafkaConfig(HERE, extra=extra)
    shown = config.effective_settings()
    assert shown["publisher"]["sasl.password"] == "***"
    assert shown["publisher"]["security.protocol"] == "SASL_SSL"
    assert "hunter2" not in str(shown)
    assert config.without_secrets("login of shop-user with hunter2 failed") == "login of *** with *** failed"


def test_a_config_shown_in_a_traceback_or_log_holds_no_secret() -> None:
    assert "hunter2" not in repr(KafkaConfig(HERE, extra={"sasl.password": "hunter2"}))


def test_the_vendor_tools_last_line_is_its_rate() -> None:
    printed = "100 records sent, 20.0 records/sec (0.01 MB/sec)\n500 records sent, 1234.5 records/sec (1 MB/sec)\n"
    assert vendor_rate(printed) == 1234.5
    with pytest.raises(RuntimeError, match="no rate"):
        vendor_rate("", "boom")
