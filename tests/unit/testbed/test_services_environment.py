"""The addresses that `testbed up --env` exports and that a run gives to its roles."""

from pathlib import Path

import pytest

from servers.process import ProcessServer
from testbed import services


def test_rabbitmqs_management_api_is_named_with_the_login_of_its_amqp_address(tmp_path: Path) -> None:
    built = services.build(["rabbitmq"], tmp_path, "native")
    for server in built.servers:
        assert isinstance(server, ProcessServer)
        (tmp_path / server.name).mkdir()
        server.remember(password="p/w", ports={name: 20_000 + n for n, name in enumerate(server.port_names)})
    login, place = built.environment["RABBITMQ_MANAGEMENT_URL"].removeprefix("http://").split("@")
    assert login == built.environment["RABBITMQ_URL"].removeprefix("amqp://").split("@")[0]
    assert login.endswith(":p%2Fw")
    assert place == built.broker.management_url.removeprefix("http://")  # type: ignore[attr-defined]


@pytest.mark.parametrize("named", ["", "http://someone:secret@there:15672"])
def test_of_an_external_rabbitmq_it_is_what_the_environment_names_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    for setting in services.URL_SETTINGS.values():
        monkeypatch.setenv(setting, "amqp://u:p@there:5672/")
    monkeypatch.setenv("RABBITMQ_MANAGEMENT_URL", named)
    with_rabbitmq = services.build(["rabbitmq"], tmp_path, "external").environment
    assert with_rabbitmq.get("RABBITMQ_MANAGEMENT_URL", "") == named
    assert ("RABBITMQ_MANAGEMENT_URL" in with_rabbitmq) == bool(named)
    assert "RABBITMQ_MANAGEMENT_URL" not in services.build(["kafka"], tmp_path, "external").environment
