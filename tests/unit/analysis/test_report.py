"""The report is one file that loads nothing, shows every run, and escapes what the runs hold."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from analysis.rendering.charts import DARK
from analysis.rendering.report import LARGEST_BYTES, render
from tests.histories.writing import clean_run, drop_effect

FETCHING = ("src", "href", "action", "data", "poster")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in FETCHING and value and not value.startswith(("#", "data:")):
                self.fetched.append(value)
            if name == "id" and value:
                self.ids.append(value)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a clean run and one with a planted loss, whose settings try to break out of the page."""
    folder = tmp_path_factory.mktemp("report")
    runs = []
    for broker in ("kafka", "rabbitmq"):
        run = clean_run(orders=200, broker=broker, rate_per_s=50, fault_at_s=1.0, warm_up_s=1.0, load_s=3.0)
        run.run["settings"]["odd"] = "<script>alert(1)</script> | pipe"
        if broker == "rabbitmq":
            drop_effect(run)
        runs.append(run.write(folder / "runs" / broker))
    return render(runs, folder / "report.html")


def test_the_page_fetches_nothing_and_is_small(report: Path) -> None:
    links = Links()
    links.feed(report.read_text())
    assert links.fetched == []
    assert "url(http" not in report.read_text()
    assert report.stat().st_size < LARGEST_BYTES
    assert len(links.ids) == len(set(links.ids))


def test_the_page_names_the_broken_promise_and_the_lost_id_with_its_life(report: Path) -> None:
    text = report.read_text()
    assert "Rabbitmq broke its contract (lost = 1 (inventory-service 1))" in text
    life = re.search(r'<details data-id="([0-9a-f-]{36})">.*?</details>', text, re.DOTALL)
    assert life is not None
    assert "delivered" in life.group(0)
    assert "too short to conclude" in text


def test_what_a_run_holds_cannot_become_markup(report: Path) -> None:
    assert "<script>alert(1)" not in report.read_text()
    assert "&lt;script&gt;alert(1)" in report.read_text()
    markdown = report.with_suffix(".md").read_text()
    assert "<script>" not in markdown
    assert "&lt;script>alert(1)&lt;/script> \\| pipe" in markdown


def test_every_chart_is_drawn_for_both_brokers_and_named(report: Path) -> None:
    charts = sorted((report.parent / "charts").glob("*.svg"))
    assert [chart.stem.removeprefix("kill-mid-publish-") for chart in charts] == [
        "costs", "applied", "lag", "latency", "outbox", "percentiles", "stages", "recovery",
    ]  # fmt: skip
    for chart in charts:
        text = chart.read_text()
        assert ElementTree.fromstring(text)[0].text
        assert {"kafka", "rabbitmq"} <= set(re.findall(r">(kafka|rabbitmq)<", text))
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', text))
        assert used <= DARK.keys() | {"#ffffff", "#000000"}


def test_the_markdown_has_whole_tables(report: Path) -> None:
    rows = [line for line in report.with_suffix(".md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 40
    table: int | None = None
    for line in report.with_suffix(".md").read_text().splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert table is None or cells in (None, table), line
        table = cells
