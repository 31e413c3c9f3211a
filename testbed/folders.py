"""Where this user's things are on this machine: what was fetched, and what `up` left running.

Standard library only: `ahead` asks before any package is installed.
"""

import os
from pathlib import Path

NAME = "dual-broker-testbed"


def cache_folder() -> Path:
    """Where fetched services are kept: TESTBED_CACHE, else the user's cache folder."""
    return _folder("TESTBED_CACHE", "XDG_CACHE_HOME", "~/.cache")


def state_folder() -> Path:
    """Where `up` keeps its services: TESTBED_STATE, else the user's state folder."""
    return _folder("TESTBED_STATE", "XDG_STATE_HOME", "~/.local/state")


def rabbitmq_home() -> str | None:
    """RABBITMQ_HOME: an unpacked RabbitMQ to use instead of a fetched one."""
    return os.environ.get("RABBITMQ_HOME") or None


def _folder(setting: str, everybodys: str, default: str) -> Path:
    own = os.environ.get(setting) or Path(os.environ.get(everybodys) or default) / NAME
    return Path(own).expanduser().resolve()
