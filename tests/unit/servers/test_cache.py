"""What was fetched is whole or not there: half-made folders are redone, and a folder that cannot take it is named."""

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.cache import CacheFailed, fetched, is_whole

NOBODY = 65534


def fetcher(calls: list[str], text: str = "whole") -> Callable[[Path], None]:
    def make(partial: Path) -> None:
        calls.append(partial.name)
        (partial / "jar").write_text(text)

    return make


def test_a_thing_is_fetched_once_and_then_taken_from_the_folder(tmp_path: Path) -> None:
    calls: list[str] = []
    first = fetched(tmp_path, "kafka", 0, fetcher(calls))
    second = fetched(tmp_path, "kafka", 0, fetcher(calls, "another"))
    assert first == second == tmp_path / "kafka"
    assert (second / "jar").read_text() == "whole"
    assert calls == ["kafka.partial"]


def test_a_fetch_that_fails_midway_counts_as_nothing_and_is_redone_from_scratch(tmp_path: Path) -> None:
    def breaks(partial: Path) -> None:
        (partial / "leftover").write_text("half")
        raise RuntimeError("connection lost")

    with pytest.raises(RuntimeError, match="connection lost"):
        fetched(tmp_path, "kafka", 0, breaks)
    assert not is_whole(tmp_path, "kafka")
    folder = fetched(tmp_path, "kafka", 0, fetcher([]))
    assert {path.name for path in folder.iterdir()} == {"jar", ".complete"}


def test_a_fetcher_killed_midway_leaves_nothing_that_counts(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from pathlib import Path
        from servers.cache import fetched

        def make(partial):
            (partial / "jar").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        fetched(Path(sys.argv[1]), "kafka", 0, make)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], timeout=60)
    assert done.returncode == -9
    assert not is_whole(tmp_path, "kafka")
    assert (fetched(tmp_path, "kafka", 0, fetcher([])) / "jar").read_text() == "whole"


def test_a_folder_without_its_mark_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "half-a-root").touch()
    folder = fetched(tmp_path, "rabbitmq", 0, fetcher([]))
    assert not (folder / "half-a-root").exists()


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(CacheFailed) as refused:
        fetched(tmp_path, "kafka", 10**18, fetcher(calls))
    assert str(refused.value) == (
        f"no room in the cache folder {tmp_path}: 1000000000000 MB are needed; "
        "free some, or set TESTBED_CACHE to a folder with room"
    )
    assert calls == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        # No right to mount: a device that is always full stands in for the disk.
        yield Path("/dev/full")
        return
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_fetching_is_named_with_the_mend(tiny_disk: Path, tmp_path: Path) -> None:
    def large(partial: Path) -> None:
        target = tiny_disk if tiny_disk.is_char_device() else partial / "jar"
        target.write_bytes(bytes(1_000_000))

    cache = tmp_path if tiny_disk.is_char_device() else tiny_disk
    with pytest.raises(CacheFailed) as refused:
        fetched(cache, "kafka", 0, large)
    assert str(refused.value).startswith(f"no room in the cache folder {cache}: ")
    assert str(refused.value).endswith("set TESTBED_CACHE to a folder with room")
    assert not is_whole(cache, "kafka")


def as_nobody(cache: Path) -> str:
    """What `fetched` says to a user without rights: in a child, because root may write everywhere."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "something unexpected"
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            fetched(cache, "kafka", 0, fetcher([]))
            said = "fetched"
        except (CacheFailed, OSError) as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return answer.read()


def test_a_folder_that_cannot_be_written_is_named_with_the_mend() -> None:
    # Not below pytest's own folder, which strangers may not even enter.
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        cache.chmod(0o555)
        said = as_nobody(cache)
    assert said == (
        f"CacheFailed: the cache folder {cache} cannot be written (Permission denied); "
        "set TESTBED_CACHE to a folder of yours"
    )


def test_a_file_in_the_place_of_the_folder_is_named_with_the_mend(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.touch()
    with pytest.raises(
        CacheFailed, match=r"cannot be written \(File exists\); set TESTBED_CACHE to a folder of yours$"
    ):
        fetched(cache, "kafka", 0, fetcher([]))
