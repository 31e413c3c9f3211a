"""The figures of the README are those of the sample report, and every picture and page it names is there."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_figures", ROOT / "scripts" / "readme_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_of_the_readme_are_those_of_the_sample(figures: ModuleType) -> None:
    report = json.loads((ROOT / "reports" / "sample" / "report.json").read_text())
    assert figures.written(README, figures.block(report)) == README, "run python scripts/readme_figures.py"
    report["answer"][0] += " Planted."
    assert figures.written(README, figures.block(report)) != README


def test_the_readme_repeats_every_caution_of_the_sample() -> None:
    report = json.loads((ROOT / "reports" / "sample" / "report.json").read_text())
    assert [caution for caution in report["cautions"] if caution not in README] == []


def test_a_readme_without_a_place_for_figures_is_refused(figures: ModuleType) -> None:
    with pytest.raises(ValueError, match="markers"):
        figures.written("# Nothing here", "text")


def test_every_page_and_picture_that_the_readme_names_is_there() -> None:
    named = {to for to in re.findall(r"\]\(([^)#]+)\)", README) if not to.startswith("http")}
    named |= {
        word
        for word in re.findall(r"`([\w./-]+)`", README)
        if re.match(r"(docs|examples|benchmarks|core|tests)/", word)
    }
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
