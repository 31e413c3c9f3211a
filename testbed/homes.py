"""Where the services of one run live, for as long as it lasts, whatever ends it.

Outside the run's folder: their data is large and their configuration holds passwords. A home is locked while its run
lives; the kernel lets go of the lock when the run is killed, and then the next run removes what it left.
"""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from servers.process import end_orphans, wait_until
from testbed.services import is_kept

PREFIX = "testbed-run-"
LOCK = ".lock"
REMOVE_WITHIN_S = 5.0


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A folder of one's own, gone after the block; those of runs that were killed go first, with their processes."""
    end_orphans(is_kept)
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        _remove_if_dead(left.parent)
    mine = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        # PostgreSQL runs as a user of its own when root starts it, and has to pass through.
        mine.chmod(0o755)
        with (mine / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield mine
    finally:
        # What a service that was just killed had begun to write may still appear.
        wait_until(partial(_is_removed, mine), REMOVE_WITHIN_S)


def _remove_if_dead(folder: Path) -> None:
    # Another user's, or one that just ended by itself, is none of ours.
    with contextlib.suppress(OSError), (folder / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _is_removed(folder)


def _is_removed(folder: Path) -> bool:
    """The lock goes last: a removal that is cut short is taken up by the next run."""
    for path in folder.glob("*"):
        if path.name != LOCK:
            shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
