"""Run one service as a process of its own: spawn it, find it again from another shell, break it, end it.

Who a process belongs to is written twice: its id and start time in the service's `server.json`, and the service's
folder in the environment of the process (and so of all it starts). A parent that was SIGKILLed between starting a
process and writing its id down leaves nothing that the next start does not find.
Linux only: reads /proc. Not here: what to start (`postgres`, `brokers.*.server`), containers (`container`).
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from servers.cache import locked
from servers.lifecycle import ServerFailed

OWNER = "TESTBED_SERVER"
"""Environment mark: the folder of the service a process belongs to."""
PARENT = "TESTBED_PARENT"
"""Environment mark: the process that started it, as `pid:start_ticks:boot_id`."""
# Below the kernel's ephemeral range (from 32768): no outgoing connection takes a stopped service's port.
PORTS = range(20_000, 32_000)
POLL_S = 0.05
PORT_RELEASE_S = 5.0
LOG_TAIL_LINES = 15


class Identity(NamedTuple):
    """A process, told apart from a later one with the same id."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/<pid>/stat: clock ticks from boot to the start of the process."""
    boot_id: str


def identify(pid: int) -> Identity | None:
    """The process that has this id now; None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]), boot_id)


def is_alive(identity: Identity) -> bool:
    """Whether any of it still runs. A child of ours that ended is waited for, so that no zombie stays."""
    try:
        if identity.pid > 0 and os.waitpid(identity.pid, os.WNOHANG) == (0, 0):
            # A killed JVM's first thread is a zombie while its others end: it cannot be waited for yet.
            return identify(identity.pid) in (identity, None)
    except ChildProcessError:
        pass
    return identify(identity.pid) == identity


def owned_by(folder: Path) -> list[int]:
    """Ids of all processes started for the service in `folder`, by the mark in their environment."""
    return [pid for pid, marks in _marked() if marks[OWNER] == str(folder)]


def end_orphans(is_kept: Callable[[Path], bool]) -> list[int]:
    """SIGKILL services whose starter is gone, unless `is_kept(folder of the service)`; the ids of what was ended."""
    ended = []
    for pid, marks in _marked():
        parent, _, rest = marks.get(PARENT, "0:0:").partition(":")
        start_ticks, _, boot_id = rest.partition(":")
        if is_alive(Identity(int(parent), int(start_ticks), boot_id)) or is_kept(Path(marks[OWNER])):
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            ended.append(pid)
    wait_until(lambda: not any(identify(pid) for pid in ended), 10.0)
    return ended


def _marked() -> list[tuple[int, dict[str, str]]]:
    """Every living process that carries our mark, with its marks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                marks = dict(word.split("=", 1) for word in words if word.startswith((f"{OWNER}=", f"{PARENT}=")))
                if OWNER in marks and identify(int(entry.name)):
                    found.append((int(entry.name), marks))
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until `condition` holds; False if it did not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Distinct free loopback ports. Another process may still take one first: whoever starts must be ready to retry."""
    chosen: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(chosen) == count:
            return chosen
        if is_port_free(port):
            chosen.append(port)
    raise ServerFailed(
        f"fewer than {count} free loopback ports between {PORTS.start} and {PORTS.stop}; end some programs"
    )


def tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    if not log.exists():
        return "(no log yet)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


class ProcessServer(ABC):
    """A `Server` that is a process on this machine. A subclass says what to start and how to ask it something real.

    All state is in the folder, so building the same class on the same folder takes a running service up again.
    """

    port_names: tuple[str, ...] = ("port",)
    start_timeout_s = 180.0
    """One that ends while it starts is told at once: only a very busy machine waits as long."""
    stop_timeout_s = 30.0
    stop_signal = signal.SIGTERM
    stops_children_too = False
    """SIGSTOP and SIGKILL go to the whole tree and not to the very process alone."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder.resolve()

    # What a subclass answers.

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def prepare(self) -> None:
        """Make configuration and, at the first start, data. The ports are known. Called before every start."""

    @abstractmethod
    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """What to execute and the environment to add; it must become the very process (exec, no wrapper)."""

    @abstractmethod
    def probe(self, timeout_s: float) -> str | None:
        """Do one real request; None if it was answered, else why not."""

    # The `Server` contract.

    @property
    def name(self) -> str:
        return self._name

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def log(self) -> Path:
        return self._folder / f"{self._name}.log"

    @property
    def ports(self) -> Mapping[str, int]:
        ports: dict[str, int] = self.state().get("ports", {})
        if not ports:
            raise ServerFailed(f"{self._name} in {self._folder} was never started; run `testbed up`")
        return ports

    def start(self) -> None:
        with locked(self._folder / ".lock"):
            if self.is_running():
                return self.wait_ready(self.start_timeout_s)
            self._end_strays()
            for attempt in range(3):
                fresh = "ports" not in self.state()
                self._choose_ports()
                try:
                    self._spawn()
                    return self.wait_ready(self.start_timeout_s)
                except ServerFailed:
                    self._end_strays()
                    # Another process may have taken a port between our look and the service's: only the first
                    # start may move elsewhere, later ones would leave clients with the old address.
                    taken = [port for port in self.state()["ports"].values() if not is_port_free(port)]
                    if not fresh or not taken or attempt == 2:
                        raise
                    self.remember(ports=None)
                except BaseException:
                    self._end_strays()
                    raise
        return None

    def wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        reason: str | None = "not asked yet"
        while (left_s := deadline - time.monotonic()) > 0:
            if not self.is_running():
                raise ServerFailed(f"{self._name} ended while starting; its log {self.log} ends:\n{tail(self.log)}")
            reason = self.probe(min(left_s, 10.0))
            if reason is None:
                return
            time.sleep(POLL_S)
        raise ServerFailed(
            f"{self._name} did not answer within {timeout_s:g} s ({reason}); its log {self.log} ends:\n{tail(self.log)}"
        )

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        identity = self.identity()
        if identity and not wait_until(lambda: not is_alive(identity), 10.0):
            raise ServerFailed(f"{self._name} (process {identity.pid}) is still there 10 s after SIGKILL")
        if self.stops_children_too:
            self._end_strays()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        identity = self.identity()
        if identity and is_alive(identity):
            # The polite signal is handled only by a process that runs.
            self._signal(signal.SIGCONT)
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity.pid, self.stop_signal)
            wait_until(lambda: not is_alive(identity), self.stop_timeout_s)
        self._end_strays()

    def pids(self) -> list[int]:
        identity = self.identity()
        tree = set(owned_by(self._folder))
        if identity and is_alive(identity):
            tree.add(identity.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                # PostgreSQL's children write their titles over the environment that marks them.
                tree |= {child.pid for child in psutil.Process(identity.pid).children(recursive=True)}
        # The very process first: it is the one to stop before it can start others.
        return sorted(tree, key=lambda pid: (identity is None or pid != identity.pid, pid))

    def is_running(self) -> bool:
        identity = self.identity()
        return identity is not None and is_alive(identity)

    # For subclasses.

    def state(self) -> dict[str, Any]:
        """What `server.json` holds: ports, process, version, secrets; empty before the first start."""
        path = self._folder / "server.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def remember(self, **changes: object) -> None:
        """Write facts into `server.json`; None forgets one."""
        merged = {name: fact for name, fact in {**self.state(), **changes}.items() if fact is not None}
        write_atomically(self._folder / "server.json", json.dumps(merged, indent=1))

    def identity(self) -> Identity | None:
        """The very process, as written down at its start; it may be gone."""
        written = self.state().get("process")
        return Identity(**written) if isinstance(written, dict) else None

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
        """Run a tool of this service to its end; its output. Raises ServerFailed with the last lines of it."""
        try:
            done = subprocess.run(
                command,
                env=self._environment(env or {}),
                cwd=self._folder,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as late:
            raise ServerFailed(f"{self._name}: {command[0]} took more than {timeout_s:g} s") from late
        except OSError as error:
            raise ServerFailed(f"{self._name}: {command[0]} could not be run: {error}; see `testbed doctor`") from error
        if done.returncode:
            ending = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:])
            raise ServerFailed(f"{self._name}: {' '.join(command[:3])} … ended with {done.returncode}:\n{ending}")
        return done.stdout

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        starter = identify(os.getpid())
        marks = {OWNER: str(self._folder), PARENT: ":".join(map(str, starter or ()))}
        return {**os.environ, **more, **marks}

    def _choose_ports(self) -> None:
        ports = self.state().get("ports")
        if isinstance(ports, dict) and set(ports) == set(self.port_names):
            for port_name, port in ports.items():
                # The last thread of a killed process closes its sockets a moment after the process counts as dead.
                if not wait_until(lambda port=port: is_port_free(port), PORT_RELEASE_S):  # type: ignore[misc]
                    raise ServerFailed(
                        f"port {port} ({port_name}) of {self._name} is in use by another program; "
                        f"end it, or remove {self._folder} to start anew"
                    )
            return
        self.remember(ports=dict(zip(self.port_names, free_ports(len(self.port_names)), strict=True)))

    def _spawn(self) -> None:
        self.prepare()
        command, env = self.command()
        with self.log.open("ab") as log:
            try:
                child = subprocess.Popen(
                    command,
                    env=self._environment(env),
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerFailed(f"{self._name} could not be started: {error}; see `testbed doctor`") from error
        identity = identify(child.pid)
        child.returncode = 0  # waited for by `is_alive`; keeps Popen from warning about a process that outlives it
        self.remember(process=identity._asdict() if identity else None, version=self.version)

    def _signal(self, number: signal.Signals) -> None:
        identity = self.identity()
        if identity is None or not is_alive(identity):
            if number is signal.SIGCONT:
                return
            raise ServerFailed(f"{self._name} is not running; start it with `testbed up`")
        for pid in self.pids() if self.stops_children_too else [identity.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_strays(self) -> None:
        """SIGKILL everything of this service that still lives, whoever started it, and wait until it is gone."""

        def strays() -> list[int]:
            return sorted(set(self.pids()) - {os.getpid()})

        def all_gone() -> bool:
            left = strays()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            return not left

        if not wait_until(all_gone, 20.0):
            raise ServerFailed(f"{self._name}: processes {strays()} do not end; end them by hand")
