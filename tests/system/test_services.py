"""`testbed up`, `status`, `chaos` and `down` as a person types them, and services that die and come back.

Real processes, told by the ids that `status` shows and by everything that descends from them.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pika
import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from servers.lifecycle import Server, ServerFailed
from testbed import services
from tests.waiting import until

BROKERS = ("kafka", "rabbitmq")
PROCESS_OF = {"kafka": "java", "rabbitmq": "beam.smp", "postgres": "postgres"}
CHECKOUT = Path(__file__).parent.parent.parent


class Testbed:
    """The commands, on a state folder of its own."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[int, psutil.Process] = {}

    def spawn(self, *words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "TESTBED_STATE": str(self.folder)}
        command = [sys.executable, "-m", "testbed.services", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=env, cwd=CHECKOUT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str) -> tuple[int, str]:
        process = self.spawn(*words)
        out, err = process.communicate(timeout=240)
        return process.returncode, out + err

    def status(self) -> dict[str, dict[str, object]]:
        process = self.spawn("status", "--json")
        out, _ = process.communicate(timeout=240)
        return {row["name"]: row for row in json.loads(out)["services"]}

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started for this folder, found by its environment or its ancestors."""
        for process in psutil.process_iter():
            try:
                if process.pid not in self.seen and str(self.folder) in process.environ().get("TESTBED_SERVER", ""):
                    self.seen[process.pid] = process
                    self.seen.update({child.pid: child for child in process.children(recursive=True)})
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in self.seen.values() if is_alive(process)]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Testbed]:
    yield from ended(Testbed(tmp_path / "state"))


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Testbed]:
    yield from ended(Testbed(tmp_path / "neighbour"))


def ended(testbed: Testbed) -> Iterator[Testbed]:
    yield testbed
    testbed.run("down")
    for process in testbed.processes():
        process.kill()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_starting(testbed: Testbed, name: str) -> bool:
    return any(name_of(process) == PROCESS_OF[name] for process in testbed.processes())


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize("broker", BROKERS)
def test_up_again_ends_what_a_killed_up_left_and_down_leaves_nothing(here: Testbed, broker: str) -> None:
    killed = here.spawn("up", "--broker", broker)
    until(lambda: is_starting(here, broker))
    # Looked at before they are orphans: any testbed that starts anywhere on this machine may end them from then on.
    orphans = here.processes()
    assert {PROCESS_OF[broker], "postgres"} <= {name_of(process) for process in orphans}
    killed.kill()
    killed.communicate()

    code, said = here.run("up", "--broker", broker)
    assert code == 0, said
    assert [process for process in orphans if is_alive(process)] == []
    rows = here.status()
    assert {name: (row["ready"], row["running"]) for name, row in rows.items()} == {
        "postgres": (True, True),
        broker: (True, True),
    }
    shown = {psutil.Process(int(str(row["pid"]))).name() for row in rows.values()}
    assert shown == {PROCESS_OF[broker], "postgres"}
    assert len(here.processes()) > 2, "children are to be watched too"

    assert here.run("down") == (0, "stopped\n")
    assert here.processes() == []
    code, said = here.run("status")
    assert (code, said) == (2, "nothing is up; run `testbed up`\n")


@pytest.mark.parametrize(("broker", "number"), [("kafka", signal.SIGINT), ("rabbitmq", signal.SIGTERM)])
def test_an_interrupted_up_leaves_no_process(here: Testbed, broker: str, number: signal.Signals) -> None:
    up = here.spawn("up", "--broker", broker)
    until(lambda: is_starting(here, broker))
    up.send_signal(number)
    up.communicate(timeout=240)
    assert up.returncode == 130
    assert here.processes() == []


def test_chaos_by_hand_is_seen_by_status_and_leaves_the_neighbour_alone(here: Testbed, neighbour: Testbed) -> None:
    both = [testbed.spawn("up", "--broker", "rabbitmq") for testbed in (here, neighbour)]
    said = [up.communicate(timeout=90)[1] for up in both]
    assert [up.returncode for up in both] == [0, 0], said
    next_door = neighbour.status()

    assert here.run("chaos", "pause", "--broker", "rabbitmq") == (0, "pause: rabbitmq\n")
    paused = here.status()["rabbitmq"]
    assert (paused["running"], paused["ready"]) == (True, False)
    assert here.run("chaos", "resume") == (0, "resume: rabbitmq\n")
    assert here.status()["rabbitmq"]["ready"] is True

    before = here.status()["postgres"]
    assert here.run("chaos", "database-restart") == (0, "database-restart: postgres\n")
    again = here.status()["postgres"]
    assert (again["ready"], again["url"]) == (True, before["url"])
    assert again["pid"] != before["pid"]

    assert here.run("chaos", "sigkill") == (0, "sigkill: rabbitmq\n")
    assert here.status()["rabbitmq"]["running"] is False
    code, told = here.run("up", "--broker", "rabbitmq")
    assert code == 0, told
    back = here.status()["rabbitmq"]
    assert (back["ready"], back["url"]) == (True, paused["url"]), "clients keep the address they have"
    assert back["pid"] != paused["pid"]

    assert here.run("down") == (0, "stopped\n")
    assert here.processes() == []
    assert neighbour.status() == next_door
    assert all(row["ready"] for row in next_door.values())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("chaos sigkill", "nothing is up; run `testbed up`"),
        ("chaos earthquake", f"no fault 'earthquake': use {', '.join(services.FAULTS)}"),
        (
            "chaos latency",
            "latency needs a proxy before the broker, which only `testbed run --set faults=latency` puts there: "
            f"use {', '.join(services.FAULTS)}",
        ),
        (
            "chaos relay-crash",
            "relay-crash breaks a role, which `up` does not start; `testbed run --set faults=relay-crash` does: "
            f"use {', '.join(services.FAULTS)}",
        ),
        ("up --broker rabbitmqq", "--broker rabbitmqq: use kafka, rabbitmq or both"),
        ("up --nodes 3", "--nodes 3 is not there yet: use 1"),
        ("up --provider cloud", "no provider 'cloud': use auto, native, docker, external"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line_with_what_is_allowed(here: Testbed, words: str, line: str) -> None:
    assert here.run(*words.split()) == (2, f"testbed: {line}\n")


@pytest.mark.parametrize("fault", ["pause", "sigkill"])
def test_a_broker_that_stood_still_or_died_answers_again(broker_server: Server, fault: str) -> None:
    before = psutil.Process(broker_server.pids()[0])
    assert before.name() == PROCESS_OF[broker_server.name]
    if fault == "pause":
        broker_server.pause()
        until(lambda: before.status() == psutil.STATUS_STOPPED)
        with pytest.raises(ServerFailed, match="did not answer within"):
            broker_server.wait_ready(0.5)
        broker_server.resume()
    else:
        broker_server.kill()
        assert not is_alive(before)
        with pytest.raises(ServerFailed, match="is not running"):
            broker_server.pause()
        broker_server.start()
    broker_server.wait_ready(30.0)


def test_a_confirmed_kafka_record_survives_sigkill(kafka_server: Server) -> None:
    address = {"bootstrap.servers": kafka_server.url}
    admin = AdminClient(address)
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    errors: list[KafkaError | None] = []
    producer = Producer({**address, "acks": "all"})
    producer.produce("kept", b"order-1", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(20)
    assert errors == [None]
    kafka_server.kill()
    kafka_server.start()
    consumer = Consumer({**address, "group.id": "reader", "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        values: list[bytes | None] = []

        def got() -> bool:
            message = consumer.poll(1)
            values.extend([message.value()] if message is not None and message.error() is None else [])
            return bool(values)

        until(got)
        assert values == [b"order-1"]
    finally:
        consumer.close()


def test_a_confirmed_rabbitmq_message_survives_sigkill(rabbitmq_server: Server) -> None:
    def channel() -> BlockingChannel:
        return pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)).channel()

    writer = channel()
    writer.confirm_delivery()
    writer.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    # RabbitMQ saves the name of a new quorum queue late and shows nowhere that it did: one killed within 0.65 s of the
    # declaration is lost with its queue (docs/decisions/rabbitmq-declared-on-disk.md). This test is of the message.
    writer.connection.sleep(2.0)
    writer.basic_publish("", "kept", b"order-1", pika.BasicProperties(delivery_mode=2), mandatory=True)
    rabbitmq_server.kill()
    with contextlib.suppress(AMQPError):
        writer.connection.process_data_events(5)
    rabbitmq_server.start()
    bodies: list[bytes] = []

    def got() -> bool:
        reader = channel()
        # The queue elects its leader anew; until then the broker closes the connection of whoever asks.
        with contextlib.suppress(AMQPError):
            bodies.extend(body for _, _, body in [reader.basic_get("kept", auto_ack=True)] if body is not None)
            reader.connection.close()
        return bool(bodies)

    until(got)
    assert bodies == [b"order-1"]


def test_a_committed_row_survives_sigkill_of_the_database(postgres_server: Server) -> None:
    address = postgres_server.url.replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE kept (id text)")
        connection.execute("INSERT INTO kept VALUES ('order-1')")
    postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [("order-1",)]
        connection.execute("DROP TABLE kept")


def test_a_port_taken_by_another_program_is_named_with_the_mend(postgres_server: Server) -> None:
    port = psycopg.conninfo.conninfo_to_dict(postgres_server.url.replace("+psycopg", ""))["port"]
    postgres_server.stop()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", int(str(port))))
        stranger.listen()
        with pytest.raises(ServerFailed, match=rf"^port {port} \(port\) of postgres is in use by another program; "):
            postgres_server.start()
    postgres_server.start()


def test_a_broker_in_a_container_answers_a_real_publish(container_broker: Server) -> None:
    container_broker.wait_ready(60.0)
