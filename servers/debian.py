"""A Debian root folder with one package and what it needs, made by debootstrap from the host's own mirror.

It is entered with a mount namespace of its own and chroot: nothing is installed on the host, several can run at once.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from servers.cache import fetched
from servers.lifecycle import ServerFailed

INSIDE = "/srv/testbed"
"""Where the service's folder is seen inside the root."""
NEEDS_BYTES = 1_200_000_000


class Root(NamedTuple):
    """A root folder that can be made."""

    name: str
    """In the cache folder."""
    suite: str
    package: str


RABBITMQ = Root("rabbitmq-trixie", "trixie", "rabbitmq-server")

# Everything is mounted in a namespace that dies with the process. `exec` keeps the process id.
ENTER = """\
set -e
mkdir -p "$1/srv/testbed" "$1/proc" "$1/dev" "$1/sys"
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$2" "$1/srv/testbed"
root="$1"; shift 2
exec chroot "$root" "$@"
"""


def mirror(apt: Path = Path("/etc/apt")) -> str:
    """The Debian archive that the host's apt uses. Raises ServerFailed where apt knows none."""
    for source in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not source.is_file() or source.suffix not in (".list", ".sources"):
            continue
        for line in source.read_text().splitlines():
            found = re.match(r"(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(\S+)", line)
            if found and re.search(r"/debian/?$", found[1]):
                return found[1]
    raise ServerFailed(
        "apt on this machine knows no Debian archive: set RABBITMQ_HOME to an unpacked RabbitMQ >= 4.0, "
        "or use --provider docker or external"
    )


def root_with(cache: Path, root: Root) -> Path:
    """The root folder with its package, made once (about a minute, 400 MB)."""
    name, suite, package = root

    def make(partial: Path) -> None:
        if os.geteuid() != 0:
            raise ServerFailed(
                f"{package} must be fetched once as root: run `make setup` as root, set RABBITMQ_HOME, "
                "or use --provider docker or external"
            )
        _have_debootstrap()
        log = partial.with_suffix(".log")
        with log.open("w") as out:
            # debootstrap mounts /proc into the root; in a namespace of its own that ends with it, even when killed.
            code = _run_to_its_end(
                [
                    "unshare",
                    "--mount",
                    "debootstrap",
                    "--variant=minbase",
                    f"--include={package}",
                    suite,
                    str(partial),
                    mirror(),
                ],
                out,
            )
        if code:
            ending = log.read_text(errors="replace").splitlines()[-8:]
            raise ServerFailed(f"debootstrap of {suite} failed (log: {log}):\n" + "\n".join(ending))
        shutil.rmtree(partial / "var/cache/apt", ignore_errors=True)

    return fetched(cache, name, NEEDS_BYTES, make)


def _run_to_its_end(command: Sequence[str], out: TextIO) -> int:
    """The exit code; if we are interrupted, all that `command` started ends too."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
    child = subprocess.Popen(command, env=env, start_new_session=True, **streams)  # type: ignore[call-overload]
    try:
        return int(child.wait())
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise


def _have_debootstrap() -> None:
    """Install the one tool that makes the root, if it is not there; nothing else is installed on the host."""
    if shutil.which("debootstrap"):
        return
    print("testbed: installing debootstrap with apt-get", file=sys.stderr)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "debootstrap"]):
        done = subprocess.run(
            ["apt-get", "-q", *words], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServerFailed(f"debootstrap could not be installed ({reason}); run `apt-get install -y debootstrap`")


def inside(root: Path, folder: Path, command: Sequence[str]) -> list[str]:
    """The command that runs `command` in `root`, with `folder` seen as INSIDE; it becomes that process."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    return [*unshare, "--", "/bin/sh", "-c", ENTER, "enter", str(root), str(folder), *command]
