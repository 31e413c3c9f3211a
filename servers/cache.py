"""Things fetched once and kept in the user's cache folder: whole or not there, also after a crash or a full disk.

A thing is made under another name and renamed when it is complete, so a half-made one is never taken for whole.
Standard library only, as `debian`: both work before any package is installed.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from servers.lifecycle import ServerFailed

MARK = ".complete"


class CacheFailed(ServerFailed):
    """The cache folder cannot take what is needed: nothing half-made counts as whole; the message names the mend."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_whole(cache: Path, name: str) -> bool:
    return (cache / name / MARK).exists()


def fetched(cache: Path, name: str, needs_bytes: int, make: Callable[[Path], None]) -> Path:
    """The folder `cache/name`, made by `make(partial folder)` if it is not there or not whole.

    One process makes it, others wait for it. Raises CacheFailed (not writable, no room) or what `make` raises.
    """
    target = cache / name
    if is_whole(cache, name):
        return target
    try:
        with locked(cache / f".{name}.lock"):
            if is_whole(cache, name):
                return target
            _check_room(cache, needs_bytes)
            partial = cache / f"{name}.partial"
            for leftover in (partial, target):
                if leftover.exists():
                    shutil.rmtree(leftover)
            partial.mkdir(parents=True)
            make(partial)
            (partial / MARK).touch()
            os.sync()
            partial.rename(target)
    except OSError as error:
        raise _explained(error, cache, needs_bytes) from error
    return target


def _check_room(cache: Path, needs_bytes: int) -> None:
    if shutil.disk_usage(cache).free < needs_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cache))


def _explained(error: OSError, cache: Path, needs_bytes: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheFailed(
            f"no room in the cache folder {cache}: {needs_bytes // 1_000_000} MB are needed; "
            "free some, or set TESTBED_CACHE to a folder with room"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return CacheFailed(
            f"the cache folder {cache} cannot be written ({error.strerror}); set TESTBED_CACHE to a folder of yours"
        )
    return error
