"""The real commands of the shop, each a process with a port for its metrics, on one broker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from servers.process import free_ports
from testbed import wiring
from testbed.settings import Settings
from tests.waiting import until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Roles:
    """The real commands, each a process with its own port for metrics."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.ports: dict[str, int] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, *words: str) -> None:
        self.launch(role, *words)
        until(lambda: self.answers(role), 60)

    def launch(self, role: str, *words: str) -> None:
        """Without waiting until it answers."""
        self.ports[role] = free_ports(1)[0]
        port = {"API_PORT" if role == "serve" else "METRICS_PORT": str(self.ports[role])}
        environment = {**os.environ, **wiring.as_environment(self.settings), **port, "LOG_FORMAT": "json"}
        with (self.folder / f"{role}.log").open("wb") as log:
            command = [sys.executable, "-m", "testbed.cli", role, *words]
            self.processes[role] = subprocess.Popen(command, env=environment, stderr=log)

    def answers(self, role: str) -> bool:
        assert self.processes[role].poll() is None, (self.folder / f"{role}.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{self.ports[role]}/metrics", timeout=20).ok
        except requests.ConnectionError:
            return False

    def samples(self, role: str) -> Samples:
        page = requests.get(f"http://127.0.0.1:{self.ports[role]}/metrics", timeout=20).text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def value(self, role: str, name: str, **labels: str) -> float:
        return self.samples(role).get((name, tuple(sorted(labels.items()))), 0.0)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
            # A paused one could not end.
            process.send_signal(signal.SIGCONT)
        for process in self.processes.values():
            process.wait(30)

    def lines(self, role: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / f"{role}.log").read_text().splitlines()]


@contextmanager
def prepared_roles(settings: Settings, folder: Path) -> Iterator[Roles]:
    """Tables, ten products and topology are there; no role runs yet."""
    wiring.prepare(settings, 10)
    running = Roles(settings, folder)
    try:
        yield running
    finally:
        running.stop()
        admin = wiring.connect_broker(settings).admin()
        admin.delete()
        admin.close()
