"""Which code this is. Apart, so that who only names it does not import what runs experiments."""

import subprocess

from testbed.role_process import ROOT


def git_revision() -> str | None:
    """Of the commit checked out; None outside a clone, or without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
