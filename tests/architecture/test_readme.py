"""The figures of the README are those of the sample report, and every picture and page it names is there."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return script("readme_figures")


def test_the_page_of_what_was_measured_says_what_the_benches_printed() -> None:
    measured = script("measured")
    documents = measured.read_documents()
    assert measured.page(documents) == measured.PAGE.read_text(), "run python scripts/measured.py"
    rows = [
        row for each in documents if (each["bench"], each["broker"]) == ("relay", "kafka") for row in each["results"]
    ]
    next(row for row in rows if row["name"] == "outbox-leased").update(
        rate_per_s=29_999.0, ratio=21.0, interval=[19, 23]
    )
    page = measured.page(documents)
    assert "| relay | outbox-leased | kafka | /s | 29,999 |  | 30,000 | 45,000 | short |" in page
    assert "19.00–23.00 | 20.00 | 20.00 | reached, and the aim; the interval spans the bar |" in page
    proxy = {"name": "proxy-MB", "rate_per_s": 199.0, "baseline": "x", "ratio": 0.2, "interval": [0.1, 0.3]}
    document = {"bench": "proxy", "broker": "none", "profile": "loopback", "unit": "MB", "results": [proxy]}
    assert "| proxy | proxy-MB | loopback | MB/s | 199 |  | 200 |  | short |" in measured.page([document])


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
