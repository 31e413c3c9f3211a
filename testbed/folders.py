"""Where this user's things are on this machine: what was fetched, and what `up` left running."""

import os
from pathlib import Path

import platformdirs

NAME = "dual-broker-testbed"


def cache_folder() -> Path:
    """Where fetched services are kept: TESTBED_CACHE, else the user's cache folder."""
    return Path(os.environ.get("TESTBED_CACHE") or platformdirs.user_cache_dir(NAME)).expanduser().resolve()


def state_folder() -> Path:
    """Where `up` keeps its services: TESTBED_STATE, else the user's state folder."""
    return Path(os.environ.get("TESTBED_STATE") or platformdirs.user_state_dir(NAME)).expanduser().resolve()


def rabbitmq_home() -> str | None:
    """RABBITMQ_HOME: an unpacked RabbitMQ to use instead of a fetched one."""
    return os.environ.get("RABBITMQ_HOME") or None
