"""One RabbitMQ node (>= 4.0) as a process of its own, with its own Erlang port mapper, ports and password.

Taken from RABBITMQ_HOME or the path if new enough, else from a Debian root in the cache. Ready means: a persistent
message was confirmed. The very process is beam.smp; `stop` ends the port mapper (epmd) too.
"""

import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache as remembered
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError

from servers.debian import INSIDE, RABBITMQ, inside, root_with
from servers.lifecycle import ServerFailed
from servers.process import ProcessServer

AT_LEAST = (4, 0)
FOLDER = RABBITMQ.name
"""Its name in the cache folder."""
PLUGINS = ("rabbitmq_management", "rabbitmq_stream", "rabbitmq_prometheus")
USER = "testbed"


class Installation(NamedTuple):
    root: Path | None
    """A Debian root to enter; None: RabbitMQ is on the host."""
    bin: str
    """Folder of rabbitmq-server and rabbitmqctl, as seen where they run."""
    version: str


def fetch(cache: Path, home: str | None = None) -> Installation:
    """Where RabbitMQ is; makes the Debian root if nothing else is new enough."""
    return on_host(home) or _in_root(root_with(cache, RABBITMQ))


def _in_root(root: Path) -> Installation:
    found = sorted((root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    if not found:
        raise ServerFailed(f"no RabbitMQ in {root}: remove that folder and try again")
    return Installation(root, "/usr/lib/rabbitmq/bin", found[-1].name.partition("-")[2])


@remembered
def on_host(home: str | None) -> Installation | None:
    """The one in `home` or on the path if it is new enough. Raises ServerFailed if `home` is not."""
    if home:
        if not (Path(home) / "sbin" / "rabbitmq-server").exists():
            raise ServerFailed(f"RABBITMQ_HOME={home} has no sbin/rabbitmq-server; set it to an unpacked RabbitMQ")
        folder = Path(home) / "sbin"
    else:
        on_path = shutil.which("rabbitmq-server")
        if on_path is None:
            return None
        folder = Path(on_path).parent
    version = _version_of(folder)
    if tuple(int(part) for part in version.split(".")[:2]) >= AT_LEAST:
        return Installation(None, str(folder), version)
    if home:
        raise ServerFailed(f"RABBITMQ_HOME={home} holds RabbitMQ {version}; at least 4.0 is needed")
    return None


def _version_of(folder: Path) -> str:
    """`0.0` if it does not tell; Debian's scripts on the path refuse other users than root and rabbitmq."""
    try:
        told = subprocess.run([str(folder / "rabbitmqctl"), "version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "0.0"
    found = re.search(r"^\d+\.\d+[.\d]*", told.stdout, re.MULTILINE)
    return found[0] if found else "0.0"


class RabbitMQ(ProcessServer):
    port_names = ("port", "management", "prometheus", "stream", "distribution", "epmd")

    def __init__(
        self,
        folder: Path,
        cache: Path,
        home: str | None = None,
        memory_limit_bytes: int = 2_000_000_000,
        disk_free_limit_bytes: int = 50_000_000,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`home`: RABBITMQ_HOME. The limits are where the alarms that block publishers begin.
        `settings`: further lines of rabbitmq.conf.
        """
        super().__init__("rabbitmq", folder)
        self._cache = cache
        self._home = home
        self._memory_limit_bytes = memory_limit_bytes
        self._disk_free_limit_bytes = disk_free_limit_bytes
        self._more = dict(settings or {})

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.ports['port']}/%2F"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['management']}"

    @property
    def password(self) -> str:
        return str(self.state()["password"])

    @property
    def version(self) -> str:
        return str(self.state()["version"]) if "version" in self.state() else self._installation().version

    @property
    def settings(self) -> Mapping[str, str]:
        """rabbitmq.conf, as the broker gets it; it holds the password."""
        ports = self.ports
        return {
            "listeners.tcp.1": f"127.0.0.1:{ports['port']}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(ports["management"]),
            "prometheus.tcp.ip": "127.0.0.1",
            "prometheus.tcp.port": str(ports["prometheus"]),
            "stream.listeners.tcp.1": f"127.0.0.1:{ports['stream']}",
            "default_user": USER,
            "default_pass": self.password,
            "vm_memory_high_watermark.absolute": str(self._memory_limit_bytes),
            "disk_free_limit.absolute": str(self._disk_free_limit_bytes),
            # A consumer paused by a fault must not have its channel closed: far beyond any run.
            "consumer_timeout": str(24 * 3600 * 1000),
            # Unacked messages of other processes are told by these statistics; the default is 5 s old.
            "collect_statistics_interval": "1000",
            "log.console": "true",
            "log.console.level": "info",
            "log.file": "false",
            **self._more,
        }

    def prepare(self) -> None:
        if "password" not in self.state():
            self.remember(password=secrets.token_urlsafe(18))
        conf = self.folder / "rabbitmq.conf"
        conf.touch(mode=0o600)
        conf.write_text("".join(f"{name} = {value}\n" for name, value in self.settings.items()))
        (self.folder / "enabled_plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        (self.folder / "data").mkdir(exist_ok=True)

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        return self._in_place("rabbitmq-server", []), self._erlang_environment()

    def control(self, *words: str) -> str:
        """`rabbitmqctl …` on this node; what it printed."""
        return self.run(self._in_place("rabbitmqctl", list(words)), self._erlang_environment())

    def memory_alarm(self, on: bool) -> None:
        """Let the memory alarm ring by setting its limit to next to nothing; publishers are blocked until it is off."""
        self.control("set_vm_memory_high_watermark", "absolute", "1" if on else str(self._memory_limit_bytes))

    def disk_alarm(self, on: bool) -> None:
        """Let the disk alarm ring by asking for more free space than there can be."""
        self.control("set_disk_free_limit", "1000000GB" if on else str(self._disk_free_limit_bytes))

    def alarms(self) -> str:
        """The broker's own list of alarms in effect, in Erlang's words; `[]` if there is none."""
        return self.control("eval", "rabbit_alarm:get_alarms().").strip()

    def probe(self, timeout_s: float) -> str | None:
        return publish_one(self.url, timeout_s)

    def _installation(self) -> Installation:
        return fetch(self._cache, self._home)

    def _in_place(self, program: str, words: Sequence[str]) -> list[str]:
        where = self._installation()
        command = [f"{where.bin}/{program}", *words]
        return inside(where.root, self.folder, command) if where.root else command

    def _erlang_environment(self) -> dict[str, str]:
        seen_as = INSIDE if self._installation().root else str(self.folder)
        ports = self.ports
        return {
            "HOME": seen_as,
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RABBITMQ_NODENAME": f"testbed-{ports['port']}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{seen_as}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{seen_as}/none.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{seen_as}/advanced.config",
            "RABBITMQ_MNESIA_BASE": f"{seen_as}/data",
            "RABBITMQ_LOG_BASE": seen_as,
            "RABBITMQ_PID_FILE": f"{seen_as}/rabbitmq.pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{seen_as}/enabled_plugins",
            "RABBITMQ_DIST_PORT": str(ports["distribution"]),
            "ERL_EPMD_PORT": str(ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # With ALLOW_INPUT the start script replaces itself by beam.smp instead of waiting beside it.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1} +B i",
        }


def publish_one(url: str, timeout_s: float) -> str | None:
    """Publish a persistent message to a queue of our own and see it confirmed; None, or why it was not."""
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = timeout_s
    try:
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.basic_publish("", queue, b"ready?", pika.BasicProperties(delivery_mode=2), mandatory=True)
        finally:
            if connection.is_open:
                connection.close()
    except (AMQPError, AMQPConnectorException, OSError) as error:
        return str(error) or type(error).__name__
    return None
