"""Services somebody else runs: containers through `docker compose`, and external ones known by their address alone."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache as remembered
from pathlib import Path

from servers.cache import locked
from servers.lifecycle import NotControlled, ServerFailed
from servers.process import POLL_S, free_ports, write_atomically

Probe = Callable[[str, float], str | None]
"""(url, timeout_s) -> None if a real request was answered, else why not."""


@remembered
def engine_answers() -> bool:
    """Whether a Docker engine can be talked to from here."""
    if shutil.which("docker") is None:
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(asked, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def wait_for_answer(name: str, ask: Callable[[float], str | None], timeout_s: float, advice: str) -> None:
    """Ask until answered. Raises ServerFailed with the last refusal and `advice`."""
    deadline = time.monotonic() + timeout_s
    reason: str | None = "not asked yet"
    while (left_s := deadline - time.monotonic()) > 0:
        if (reason := ask(min(left_s, 10.0))) is None:
            return
        time.sleep(POLL_S)
    raise ServerFailed(f"{name} did not answer within {timeout_s:g} s ({reason}); {advice}")


class Container:
    """One service of docker-compose.yml, profile `single`. Containers of one folder are one compose project."""

    start_timeout_s = 180.0

    def __init__(
        self, name: str, folder: Path, compose_file: Path, url: str, port_names: Sequence[str], probe: Probe
    ) -> None:
        """`url`: with `{password}` and the port names (environment names of the compose file) to be filled in."""
        self._name = name
        self._folder = folder.resolve()
        self._compose_file = compose_file
        self._url = url
        self._port_names = port_names
        self._probe = probe

    @property
    def name(self) -> str:
        return self._name

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def url(self) -> str:
        return self._url.format(**self._facts())

    @property
    def ports(self) -> Mapping[str, int]:
        """By their environment names in the compose file."""
        facts = self._facts()
        return {name: int(facts[name]) for name in self._port_names}

    @property
    def version(self) -> str:
        """The image the container was made from; empty while there is none."""
        container = self._compose("ps", "--all", "--quiet", self._name).strip()
        return self._docker("inspect", "--format", "{{.Config.Image}}", container).strip() if container else ""

    @property
    def log(self) -> Path:
        """The container's output up to now, written to a file."""
        path = self._folder / f"{self._name}.log"
        path.write_text(self._compose("logs", "--no-color", self._name))
        return path

    def start(self) -> None:
        self._compose("up", "--detach", self._name, timeout_s=900.0)
        self.wait_ready(self.start_timeout_s)

    def wait_ready(self, timeout_s: float) -> None:
        advice = f"see `docker compose --project-name {self._project} logs {self._name}`"
        wait_for_answer(self._name, lambda left_s: self._probe(self.url, left_s), timeout_s, advice)

    def kill(self) -> None:
        self._compose("kill", "--signal", "KILL", self._name)

    def pause(self) -> None:
        self._compose("pause", self._name)

    def resume(self) -> None:
        if self._state() == "paused":
            self._compose("unpause", self._name)

    def stop(self) -> None:
        self.resume()
        self._compose("rm", "--stop", "--force", self._name)

    def pids(self) -> list[int]:
        """The container's first process, where the engine runs on this machine."""
        container = self._compose("ps", "--quiet", self._name).strip()
        pid = int(self._docker("inspect", "--format", "{{.State.Pid}}", container)) if container else 0
        return [pid] if pid else []

    def is_running(self) -> bool:
        return self._state() in ("running", "paused")

    def _state(self) -> str:
        container = self._compose("ps", "--all", "--quiet", self._name).strip()
        return self._docker("inspect", "--format", "{{.State.Status}}", container).strip() if container else ""

    @property
    def _project(self) -> str:
        return f"testbed-{self._facts()['project']}"

    def _facts(self) -> dict[str, str]:
        """Ports, password and project of this folder; drawn once."""
        path = self._folder / "container.json"
        with locked(self._folder / ".lock"):
            if not path.exists():
                facts = {"password": secrets.token_urlsafe(18), "project": secrets.token_hex(4)}
                ports = free_ports(len(self._port_names))
                facts.update({name: str(port) for name, port in zip(self._port_names, ports, strict=True)})
                write_atomically(path, json.dumps(facts))
        return dict(json.loads(path.read_text()))

    def _compose(self, *words: str, timeout_s: float = 120.0) -> str:
        options = ["--project-name", self._project, "--file", str(self._compose_file), "--profile", "single"]
        facts = self._facts()
        env = {"TESTBED_PASSWORD": facts["password"], **{name: facts[name] for name in self._port_names}}
        return self._docker("compose", *options, *words, env=env, timeout_s=timeout_s)

    def _docker(self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
        try:
            done = subprocess.run(
                ["docker", *words],
                env={**os.environ, **(env or {})},
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerFailed(f"{self._name}: docker could not be run: {error}; see `testbed doctor`") from error
        if done.returncode:
            raise ServerFailed(f"{self._name}: docker {words[0]} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout


class External:
    """A service that is simply there. What needs control of its process is refused by name."""

    def __init__(self, name: str, folder: Path, url: str, probe: Probe) -> None:
        self._name = name
        self._folder = folder
        self._url = url
        self._probe = probe

    @property
    def name(self) -> str:
        return self._name

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def url(self) -> str:
        return self._url

    @property
    def version(self) -> str:
        return "external"

    @property
    def log(self) -> Path:
        raise NotControlled(self._name, "read the log of")

    def start(self) -> None:
        self.wait_ready(15.0)

    def wait_ready(self, timeout_s: float) -> None:
        advice = "start it, or correct its URL in the environment"
        wait_for_answer(f"external {self._name}", lambda left_s: self._probe(self._url, left_s), timeout_s, advice)

    def kill(self) -> None:
        raise NotControlled(self._name, "kill")

    def pause(self) -> None:
        raise NotControlled(self._name, "pause")

    def resume(self) -> None:
        raise NotControlled(self._name, "resume")

    def stop(self) -> None:
        """Nothing: it was not ours to start."""

    def pids(self) -> list[int]:
        return []

    def is_running(self) -> bool:
        return self._probe(self._url, 3.0) is None
