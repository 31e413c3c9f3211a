"""What a bench cannot measure is refused before anything is started."""

import pytest

from testbed import doctor
from testbed.benches import bench
from testbed.settings import SettingError


class Asked(Exception):
    """What the machine has is looked at: the options were taken."""


def ask(names: object) -> None:
    raise Asked


@pytest.mark.parametrize("part", ["inbox", "api"])
def test_a_size_is_refused_where_it_would_change_nothing(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(doctor, "require", ask)
    with pytest.raises(SettingError, match=f"--size 512: `bench {part}` has messages of its own"):
        bench(part, "kafka", size=512)  # type: ignore[arg-type]
    with pytest.raises(Asked):
        bench(part, "kafka")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["adapter", "relay"])
def test_a_size_is_taken_where_it_means_something(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(doctor, "require", ask)
    with pytest.raises(Asked):
        bench(part, "kafka", size=512)  # type: ignore[arg-type]
