"""Which code this is. Apart, so that who only names it does not import what runs experiments."""

import subprocess

from testbed.role_process import ROOT


def git_revision() -> str | None:
    """Of the commit checked out, `-dirty` where its code was changed since; None outside a clone, or without git."""
    try:
        revision = _git("rev-parse", "HEAD")
        # What measuring itself writes is no code.
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports", ":!docs")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{revision}{'-dirty' if changed else ''}" if revision else None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10).stdout.strip()
