"""Fetch beside the installation of packages what needs none of them: RabbitMQ's root folder, the slowest part of setup.

Standard library only. What cannot be done here is left to `fetch`, which knows more and tells what lacks.
"""

import os
import shutil
import signal
import sys
from types import FrameType

from servers.debian import RABBITMQ, root_with
from servers.lifecycle import ServerFailed
from testbed.folders import cache_folder, rabbitmq_home


def is_wanted() -> bool:
    """Whether the root folder is certainly what RabbitMQ will come from."""
    elsewhere = rabbitmq_home() or shutil.which("rabbitmq-server")
    return sys.platform == "linux" and os.geteuid() == 0 and not elsewhere


def main() -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(130)

    signal.signal(signal.SIGTERM, end)
    if is_wanted():
        try:
            root_with(cache_folder(), RABBITMQ)
        except (ServerFailed, OSError) as error:
            print(f"setup: RabbitMQ is not fetched yet ({error}); it is tried again", file=sys.stderr)


if __name__ == "__main__":
    main()
