"""What this machine has for the testbed and what it lacks, each with the one thing that mends it.

`testbed doctor` shows all of it; commands that start services call `require` for what they need.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import psutil
import typer
from rich.console import Console

from brokers.kafka import server as kafka
from brokers.rabbitmq import server as rabbitmq
from servers import container, debian, maven, postgres
from servers.cache import is_whole
from servers.lifecycle import ServerFailed
from servers.process import free_ports
from testbed.folders import cache_folder, rabbitmq_home, state_folder

DISK_NEEDED_BYTES = 3_000_000_000
MEMORY_NEEDED_BYTES = 2_500_000_000
PORTS_NEEDED = 10


class Finding(NamedTuple):
    name: str
    state: Literal["ok", "later", "lacks", "without"]
    """`later`: fetched at the first need. `without`: nothing needs it."""
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.name:<9} {self.state:<8} {self.found}" + (f"  ->  {self.mend}" if self.mend else "")


def _python() -> Finding:
    # An older one could not have read this file; `make setup` refuses it with the mend.
    return Finding("python", "ok", platform.python_version())


def _java() -> Finding:
    try:
        return Finding("java", "ok", maven.java())
    except ImportError:
        return Finding("java", "lacks", f"no Java >= {maven.JAVA_AT_LEAST}", "make setup")


def _kafka() -> Finding:
    if is_whole(cache_folder(), kafka.FOLDER):
        return Finding("kafka", "ok", f"{kafka.VERSION} in {cache_folder()}")
    return Finding("kafka", "later", f"{kafka.VERSION} is not fetched yet", "make setup")


def _rabbitmq() -> Finding:
    try:
        on_host = rabbitmq.on_host(rabbitmq_home())
    except ServerFailed as error:
        return Finding("rabbitmq", "lacks", str(error), "unset RABBITMQ_HOME, or set it to RabbitMQ >= 4.0")
    if on_host:
        return Finding("rabbitmq", "ok", f"{on_host.version} in {on_host.bin}")
    if is_whole(cache_folder(), rabbitmq.FOLDER):
        return Finding("rabbitmq", "ok", f"{rabbitmq.fetch(cache_folder()).version} in {cache_folder()}")
    if os.geteuid() != 0:
        return Finding("rabbitmq", "lacks", "cannot be fetched", "set RABBITMQ_HOME, or once as root: make setup")
    try:
        debian.mirror()
    except ServerFailed as error:
        return Finding("rabbitmq", "lacks", str(error), "set RABBITMQ_HOME, or use --provider docker or external")
    return Finding("rabbitmq", "later", "is not fetched yet", "make setup")


def _database() -> Finding:
    try:
        postgres.binaries()
    except ServerFailed as error:
        return Finding("database", "lacks", str(error), "make setup")
    # Root runs PostgreSQL in a user namespace.
    if os.geteuid() == 0 and not _works("unshare", "--user", "--map-user=1000", "true"):
        return Finding("database", "lacks", "no user namespaces", "sysctl -w user.max_user_namespaces=15000")
    return Finding("database", "ok", "PostgreSQL 18")


def _isolation() -> Finding:
    command = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    if _works(*command, "true"):
        return Finding("isolation", "ok", " ".join(command))
    mend = "run as root (in a container: with --privileged), or set RABBITMQ_HOME"
    return Finding("isolation", "lacks", f"{' '.join(command)} is refused", mend)


def _docker() -> Finding:
    if container.engine_answers():
        return Finding("docker", "ok", "an engine answers")
    return Finding("docker", "without", "no engine answers; --provider native does not need one")


def _ports() -> Finding:
    try:
        free_ports(PORTS_NEEDED)
    except ServerFailed as error:
        return Finding("ports", "lacks", str(error), "end programs that listen on the loopback address")
    return Finding("ports", "ok", "free loopback ports")


def _disk() -> Finding:
    for folder, setting in ((cache_folder(), "TESTBED_CACHE"), (state_folder(), "TESTBED_STATE")):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            return Finding("disk", "lacks", f"{there} cannot be written", f"set {setting} to a folder of yours")
        free_bytes = shutil.disk_usage(there).free
        if free_bytes < DISK_NEEDED_BYTES:
            needed = f"{DISK_NEEDED_BYTES // 1_000_000} MB are needed"
            found = f"{free_bytes // 1_000_000} MB free at {there}, {needed}"
            return Finding("disk", "lacks", found, f"free some, or set {setting} to a folder with room")
    return Finding("disk", "ok", f"{shutil.disk_usage(Path.cwd()).free // 1_000_000_000} GB free")


def _memory() -> Finding:
    free_bytes = psutil.virtual_memory().available
    found = f"{free_bytes / 1e9:.1f} GB available"
    if free_bytes >= MEMORY_NEEDED_BYTES:
        return Finding("memory", "ok", found)
    needed = f"{MEMORY_NEEDED_BYTES / 1e9:g} GB are needed"
    return Finding("memory", "lacks", f"{found}, {needed}", "end some programs, or use one broker at a time")


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


CHECKS: Mapping[str, Callable[[], Finding]] = {
    "python": _python,
    "java": _java,
    "kafka": _kafka,
    "rabbitmq": _rabbitmq,
    "isolation": _isolation,
    "database": _database,
    "docker": _docker,
    "ports": _ports,
    "disk": _disk,
    "memory": _memory,
}
NATIVE_NEEDS: Mapping[str, tuple[str, ...]] = {
    "postgres": ("python", "database", "ports", "disk", "memory"),
    "kafka": ("java", "kafka"),
    "rabbitmq": ("rabbitmq", "isolation"),
}


def lacks(services: Iterable[str]) -> list[Finding]:
    """What this machine lacks to run these services (postgres, kafka, rabbitmq) itself."""
    names = [name for service in services for name in NATIVE_NEEDS[service]]
    if "rabbitmq" in names and _rabbitmq().state == "ok" and rabbitmq.on_host(rabbitmq_home()):
        names.remove("isolation")
    return [finding for finding in (CHECKS[name]() for name in names) if finding.state == "lacks"]


def require(services: Iterable[str]) -> None:
    """Raise ServerFailed, one line a lack with its mend, if these services cannot run here."""
    if found := lacks(services):
        raise ServerFailed("; ".join(f"{lack.name}: {lack.found}. Mend: {lack.mend}" for lack in found))


def register(app: typer.Typer) -> None:
    """Add `doctor`."""

    @app.command("doctor", help="What this machine has, lacks, and how to mend it.\n\n  testbed doctor\n\n"
                                "  testbed doctor --settings")  # fmt: skip
    def _doctor(
        settings: Annotated[bool, typer.Option("--settings", help="Show the brokers' settings instead.")] = False,
    ) -> None:
        if settings:
            from testbed.wiring import settings_table

            Console().print(settings_table())
            return
        findings = [check() for check in CHECKS.values()]
        for finding in findings:
            typer.echo(str(finding))
        if any(finding.state == "lacks" for finding in findings):
            raise typer.Exit(2)
