"""What the machine lacks is one line with its mend; which provider `auto` takes; which Java runs Kafka."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from brokers.rabbitmq import server as rabbitmq
from servers import container, debian, maven
from servers.lifecycle import NotControlled, ServerFailed
from servers.process import ProcessServer
from testbed import doctor, services
from testbed.doctor import Finding

LACKS_JAVA = Finding("java", "lacks", "no Java >= 17", "make setup")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TESTBED_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    maven.java.cache_clear()
    rabbitmq.on_host.cache_clear()
    yield
    maven.java.cache_clear()
    rabbitmq.on_host.cache_clear()


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return folder


def doctor_says() -> tuple[int, list[str]]:
    app = typer.Typer()
    doctor.register(app)
    done = CliRunner().invoke(app, [])
    return done.exit_code, done.output.splitlines()


def test_the_doctor_gives_one_line_a_check_and_exit_code_2_for_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "CHECKS", {"python": lambda: Finding("python", "ok", "3.11"), "java": lambda: LACKS_JAVA}
    )
    assert doctor_says() == (
        2,
        ["python    ok       3.11", "java      lacks    no Java >= 17  ->  make setup"],
    )
    monkeypatch.setattr(doctor, "CHECKS", {"python": lambda: Finding("python", "ok", "3.11")})
    assert doctor_says() == (0, ["python    ok       3.11"])


def test_what_is_not_fetched_yet_is_no_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.CHECKS["kafka"]()
    assert (found.state, found.mend) == ("later", "make setup")


def test_a_cache_folder_below_a_file_is_named_with_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "file" / "cache"))
    found = doctor.CHECKS["disk"]()
    assert found == Finding(
        "disk", "lacks", f"{tmp_path / 'file'} cannot be written", "set TESTBED_CACHE to a folder of yours"
    )


def test_a_full_disk_is_named_with_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_NEEDED_BYTES", 10**18)
    found = doctor.CHECKS["disk"]()
    assert (found.state, found.mend) == ("lacks", "free some, or set TESTBED_CACHE to a folder with room")


def test_without_root_an_unfetched_rabbitmq_is_a_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.CHECKS["rabbitmq"]() == Finding(
        "rabbitmq", "lacks", "cannot be fetched", "set RABBITMQ_HOME, or once as root: make setup"
    )


def test_an_old_rabbitmq_is_refused_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "old/sbin", "rabbitmq-server", "true")
    program(tmp_path / "old/sbin", "rabbitmqctl", "echo 3.10.8")
    monkeypatch.setenv("RABBITMQ_HOME", str(tmp_path / "old"))
    found = doctor.CHECKS["rabbitmq"]()
    assert found.state == "lacks"
    assert found.found == f"RABBITMQ_HOME={tmp_path / 'old'} holds RabbitMQ 3.10.8; at least 4.0 is needed"


def test_a_new_rabbitmq_in_rabbitmq_home_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "new/sbin", "rabbitmq-server", "true")
    program(tmp_path / "new/sbin", "rabbitmqctl", "echo 4.1.3")
    monkeypatch.setenv("RABBITMQ_HOME", str(tmp_path / "new"))
    assert doctor.CHECKS["rabbitmq"]() == Finding("rabbitmq", "ok", f"4.1.3 in {tmp_path / 'new' / 'sbin'}")


@pytest.mark.parametrize(
    ("written", "archive"),
    [
        ("deb https://mirror.example/debian trixie main\n", "https://mirror.example/debian"),
        ("deb [signed-by=/k.gpg] http://mirror.example/debian/ trixie main\n", "http://mirror.example/debian/"),
        ("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n", "http://mirror.example/debian"),
    ],
)
def test_the_root_folder_comes_from_the_archive_that_apt_uses(tmp_path: Path, written: str, archive: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    kind = "sources" if written.startswith("Types") else "list"
    (tmp_path / "sources.list.d" / f"debian.{kind}").write_text(written)
    assert debian.mirror(tmp_path) == archive


def test_a_machine_that_knows_no_archive_is_told_what_else_there_is(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("# deb http://mirror.example/debian trixie main\n")
    with pytest.raises(ServerFailed, match=r"set RABBITMQ_HOME .* or use --provider docker or external$"):
        debian.mirror(tmp_path)


@pytest.mark.parametrize(("told", "taken"), [('openjdk version "21.0.2"', True), ('java version "1.8.0_292"', False)])
def test_a_java_on_the_path_is_taken_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, taken: bool
) -> None:
    folder = program(tmp_path / "bin", "java", f"echo '{told}' >&2")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert (maven.java() == str(folder / "java")) is taken


def test_without_any_java_on_the_path_the_packaged_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("java") is None
    assert maven._major_version(maven.java()) >= maven.JAVA_AT_LEAST


def test_auto_is_native_then_docker_then_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "lacks", lambda _names: [])
    monkeypatch.setattr(container, "engine_answers", lambda: True)
    assert services.choose_provider(["kafka"]) == "native"
    monkeypatch.setattr(doctor, "lacks", lambda _names: [LACKS_JAVA])
    assert services.choose_provider(["kafka"]) == "docker"
    monkeypatch.setattr(container, "engine_answers", lambda: False)
    with pytest.raises(ServerFailed, match=r"^java: no Java >= 17\. Mend: make setup$"):
        services.choose_provider(["kafka"])


def test_external_services_need_their_address_and_refuse_what_needs_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ServerFailed, match=r"^provider external needs DATABASE_URL in the environment$"):
        services.build(["kafka"], tmp_path, "external")
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://u:p@127.0.0.1:1/d")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    built = services.build(["kafka"], tmp_path, "external")
    for fault in ("sigkill", "pause", "memory-alarm"):
        with pytest.raises(NotControlled, match=r"kafka as it runs here; use another --provider or --broker$"):
            services.inject(fault, built.broker, None)


def test_docker_without_an_engine_is_refused_with_the_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "engine_answers", lambda: False)
    with pytest.raises(
        ServerFailed, match=r"^no Docker engine answers: start it, or use --provider native or external$"
    ):
        services.build(["kafka"], tmp_path, "docker")


def test_building_services_starts_nothing(tmp_path: Path) -> None:
    built = services.build(services.BROKERS, tmp_path / "state", "native")
    assert [server.name for server in built.servers] == ["postgres", "kafka", "rabbitmq"]
    assert all(isinstance(server, ProcessServer) and not server.is_running() for server in built.servers)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("text", "value_s"), [("5s", 5.0), ("200ms", 0.2), ("1m", 60.0), ("0.5", 0.5)])
def test_a_time_is_read_with_its_unit(text: str, value_s: float) -> None:
    assert services.seconds(text) == pytest.approx(value_s)


@pytest.mark.parametrize("text", ["", "s", "five", "-1s", "2h", "3700s", "nan"])
def test_a_time_that_is_none_or_beyond_an_hour_is_refused(text: str) -> None:
    with pytest.raises(ServerFailed, match=r"is no time between 0 and 1 h: write 5s, 200ms or 1m$"):
        services.seconds(text)


def test_a_password_is_not_shown_to_people() -> None:
    assert (
        services.without_password("amqp://testbed:s3cret@127.0.0.1:5672/%2F") == "amqp://testbed:…@127.0.0.1:5672/%2F"
    )
    assert services.without_password("127.0.0.1:9092") == "127.0.0.1:9092"
