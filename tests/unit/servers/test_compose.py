"""docker-compose.yml says what the Compose specification allows, and what this project promises of it."""

import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from testbed.services import CONTAINERS

COMPOSE_FILE = Path(__file__).parents[3] / "docker-compose.yml"
TEXT_OR_LIST = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
DURATION = {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h))+$"}
# The part of the Compose specification that is used here; any other key is refused.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "properties": {
        "services": {
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {"^[a-zA-Z0-9._-]+$": {"$ref": "#/$defs/service"}},
        },
        "volumes": {
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {"^[a-zA-Z0-9._-]+$": {"type": ["object", "null"], "maxProperties": 0}},
        },
    },
    "$defs": {
        "service": {
            "type": "object",
            "required": ["image", "profiles", "ports", "healthcheck"],
            "additionalProperties": False,
            "properties": {
                "profiles": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                "image": {"type": "string"},
                "hostname": {"type": "string"},
                "environment": {
                    "type": "object",
                    "additionalProperties": False,
                    "patternProperties": {".+": {"type": ["string", "number", "boolean", "null"]}},
                },
                "command": TEXT_OR_LIST,
                "ports": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                "volumes": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                "healthcheck": {
                    "type": "object",
                    "required": ["test", "interval", "timeout", "retries"],
                    "additionalProperties": False,
                    "properties": {
                        "test": TEXT_OR_LIST,
                        "interval": DURATION,
                        "timeout": DURATION,
                        "start_period": DURATION,
                        "retries": {"type": "integer", "minimum": 1},
                    },
                },
            },
        }
    },
}


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE_FILE.read_text()))


def test_the_compose_file_follows_the_specification(compose: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(compose, SCHEMA)


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("kafka", "healthchek", {}),
        ("kafka", "ports", ["127.0.0.1:9092:9092", "127.0.0.1:9092:9092"]),
        ("rabbitmq", "healthcheck", {"test": "true", "interval": "5", "timeout": "5s", "retries": 3}),
        ("postgres", "environment", {"POSTGRES_DB": ["testbed"]}),
    ],
)
def test_what_the_specification_does_not_allow_is_found(
    compose: dict[str, Any], service: str, key: str, value: object
) -> None:
    compose["services"][service][key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, SCHEMA)


def test_profile_single_holds_the_database_and_both_brokers_with_health_checks(compose: dict[str, Any]) -> None:
    single = {name for name, service in compose["services"].items() if "single" in service["profiles"]}
    assert single == {"postgres", "kafka", "rabbitmq"}
    assert all(compose["services"][name]["healthcheck"]["test"][0] == "CMD" for name in single)


def test_every_published_port_is_on_the_loopback_address_and_can_be_moved(compose: dict[str, Any]) -> None:
    names = set()
    for service in compose["services"].values():
        for port in service["ports"]:
            found = re.fullmatch(r"127\.0\.0\.1:\$\{([A-Z_]+):-\d+\}:\d+", port)
            assert found, port
            names.add(found[1])
    assert names == {name for _, port_names in CONTAINERS.values() for name in port_names}


def test_every_image_can_be_replaced_and_its_default_names_a_version(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert images == {
        "postgres": "${POSTGRES_IMAGE:-postgres:18}",
        "kafka": "${KAFKA_IMAGE:-apache/kafka:4.3.1}",
        "rabbitmq": "${RABBITMQ_IMAGE:-rabbitmq:4-management}",
    }


def test_every_volume_that_a_service_mounts_is_declared(compose: dict[str, Any]) -> None:
    mounted = {volume.partition(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert mounted == set(compose["volumes"])
