"""Who a process is, whose it is, which ports are free, and what a server remembers; with small processes of our own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from servers import process
from servers.lifecycle import ServerFailed
from servers.process import OWNER, PARENT, PORTS, ProcessServer, end_orphans, free_ports, identify, is_alive
from tests.waiting import until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]

FIRST_THREAD_ENDS = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(2,)).start()
print("up", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit of this thread alone
"""


class Sleeper(ProcessServer):
    """A server that is ready as soon as it lives."""

    stop_timeout_s = 5.0

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports['port']}"

    @property
    def version(self) -> str:
        return "1"

    def prepare(self) -> None:
        pass

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        return SLEEPER, {}

    def probe(self, timeout_s: float) -> str | None:
        return None


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    server = Sleeper("sleeper", tmp_path / "sleeper")
    yield server
    server.stop()


def marked(folder: Path, parent: str) -> "subprocess.Popen[bytes]":
    env = {**os.environ, OWNER: str(folder), PARENT: parent}
    child = subprocess.Popen(SLEEPER, env=env, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    return child


def me() -> str:
    return ":".join(map(str, identify(os.getpid()) or ()))


def test_a_process_that_ended_is_nobody_even_while_it_is_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    identity = identify(child.pid)
    assert identity is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists(), "still in the table"
    assert identify(child.pid) is None
    child.wait()
    assert not is_alive(identity)


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    mine = identify(os.getpid())
    assert mine is not None
    assert is_alive(mine)
    assert not is_alive(mine._replace(start_ticks=mine.start_ticks - 1))
    assert not is_alive(mine._replace(boot_id="another boot"))


def test_an_orphan_is_ended_and_one_with_a_living_starter_or_kept_on_purpose_is_not(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("orphan", "kept", "ours")]
    orphan, kept, ours = children = [
        marked(folder, parent)
        for folder, parent in zip(folders, ("1:1:another-boot", "1:1:another-boot", me()), strict=True)
    ]
    try:
        # Of this test's processes alone: what else lives on the machine is none of its business.
        ended = end_orphans(lambda folder: folder != folders[0])
        assert ended == [orphan.pid]
        assert orphan.wait() == -signal.SIGKILL
        assert (kept.poll(), ours.poll()) == (None, None)
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_free_ports_are_distinct_and_below_those_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port in PORTS and port < ephemeral for port in ports)


def test_a_port_that_is_listened_on_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        monkeypatch.setattr(process, "PORTS", range(taken, taken + 1))
        with pytest.raises(ServerFailed, match=f"fewer than 1 free loopback ports between {taken} and {taken + 1}"):
            free_ports(1)


def test_a_server_is_taken_up_again_by_whoever_knows_its_folder(sleeper: Sleeper) -> None:
    sleeper.start()
    again = Sleeper("sleeper", sleeper.folder)
    assert again.is_running()
    assert (again.pids(), again.url) == (sleeper.pids(), sleeper.url)
    again.stop()
    assert not sleeper.is_running()
    assert sleeper.pids() == []


def test_starting_twice_starts_one_process(sleeper: Sleeper) -> None:
    sleeper.start()
    before = sleeper.pids()
    sleeper.start()
    assert sleeper.pids() == before


def test_a_strange_process_of_the_folder_is_ended_before_the_start(sleeper: Sleeper) -> None:
    sleeper.folder.mkdir()
    stray = identify(marked(sleeper.folder, me()).pid)
    assert stray is not None
    sleeper.start()
    assert not is_alive(stray)


def test_ports_stay_the_same_over_a_restart_and_a_taken_one_is_named(sleeper: Sleeper) -> None:
    sleeper.start()
    port = sleeper.ports["port"]
    sleeper.stop()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with pytest.raises(ServerFailed) as refused:
            sleeper.start()
    assert str(refused.value) == (
        f"port {port} (port) of sleeper is in use by another program; end it, or remove {sleeper.folder} to start anew"
    )
    sleeper.start()
    assert sleeper.ports["port"] == port


def test_a_server_that_ends_at_once_is_told_with_the_last_lines_of_its_log(tmp_path: Path) -> None:
    class Broken(Sleeper):
        def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
            return [sys.executable, "-c", "import sys; sys.exit('no licence')"], {}

        def probe(self, timeout_s: float) -> str | None:
            return "refused"

    broken = Broken("broken", tmp_path / "broken")
    with pytest.raises(ServerFailed, match=r"^broken ended while starting; its log .*broken\.log ends:\nno licence$"):
        broken.start()


def test_a_program_that_is_not_there_is_told_with_the_next_step(tmp_path: Path) -> None:
    class Absent(Sleeper):
        def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
            return ["/no/such/program"], {}

    with pytest.raises(ServerFailed, match=r"^absent could not be started: .*; see `testbed doctor`$"):
        Absent("absent", tmp_path / "absent").start()


def test_what_a_server_remembers_is_for_its_owner_alone(sleeper: Sleeper) -> None:
    sleeper.folder.mkdir()
    sleeper.remember(password="secret", ports={"port": 20_000})
    sleeper.remember(ports=None)
    assert sleeper.state() == {"password": "secret"}
    assert (sleeper.folder / "server.json").stat().st_mode & 0o777 == 0o600


def test_a_child_whose_first_thread_ended_lives_until_its_last_and_is_no_zombie_then() -> None:
    child = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE)
    identity = identify(child.pid)
    assert identity is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert is_alive(identity)
    until(lambda: not is_alive(identity))
    assert not psutil.pid_exists(child.pid)
    child.stdout.close()
    child.returncode = 0  # `is_alive` has waited for it
