"""The report is one file that loads nothing, shows every run, and escapes what the runs hold."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from analysis.comparison import run_folders
from analysis.rendering.charts import DARK
from analysis.rendering.report import LARGEST_BYTES, render
from tests.histories.comparing import Made, one, write
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


def test_the_heading_says_what_the_runs_have_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = one("kafka", "steady")
    other = one("rabbitmq", "kill-mid-publish", fault_at_s=4.0)
    for number, (runs, heading) in enumerate(
        [
            ([calm], "Kafka under load"),
            ([calm, other], "Kafka and RabbitMQ under load and faults"),
            ([calm, one("rabbitmq", "steady")], "Kafka and RabbitMQ under the same load"),
        ]
    ):
        assert page_of(tmp_path / str(number), monkeypatch, *runs).startswith(f"# {heading}\n")


def test_a_percentile_with_fewer_than_ten_samples_beyond_it_is_a_dash(report: Path) -> None:
    rows = [line for line in report.with_suffix(".md").read_text().splitlines() if line.startswith("| `request_to_com")]
    assert len(rows) == 2
    for row in rows:
        *percentiles, longest, samples = [cell.strip() for cell in row.strip("|").split("|")][2:]
        assert 100 <= int(samples) < 1_000
        assert [cell != "–" for cell in percentiles] == [True, True, False, False]
        assert longest != "–"


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


def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *runs: Made) -> str:
    """The Markdown of a report, its charts left out."""
    monkeypatch.setattr("analysis.rendering.report._overall", lambda *_: [])
    monkeypatch.setattr("analysis.rendering.content.detailed", lambda results: {})
    comparison = write(folder, [(run, int(run.run["seed"]), "held") for run in runs])
    out = render(run_folders(folder, comparison), folder / "report.html", comparison)
    return out.with_suffix(".md").read_text()


def pairs(**rabbitmq: float) -> list[Made]:
    """Three repeats of one case on each broker."""
    return [
        one(broker, "steady", seed=seed, slow=rabbitmq.get("slow", 1.0) if broker == "rabbitmq" else 1.0)
        for broker in ("kafka", "rabbitmq")
        for seed in (1, 2, 3)
    ]


def test_a_report_of_no_difference_says_so_in_its_first_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page_of(tmp_path / "same", monkeypatch, *pairs())
    head = text.partition("## ")[0]
    assert "Of 3 figures with an interval, kafka is lower in 0 and rabbitmq in 0; 3 show no difference." in head
    assert "is lower |" not in text
    assert "| kafka is lower |" in page_of(tmp_path / "other", monkeypatch, *pairs(slow=2.0))


@pytest.mark.parametrize(
    ("weakness", "said"),
    [
        (
            {"verdict": "unknown", "reasons": ["the drain was cut short"]},
            "could not be judged: the drain was cut short",
        ),
        ({"measured_s": 4.0}, "is too short to conclude from: 4 s of load were measured"),
        ({"slip_ratio": 0.03}, "did not keep its schedule: 3.0% of the arrivals were not sent"),
        ({"saturated": "whole machine"}, "the limit was the whole machine, so its rates do not compare brokers"),
    ],
)
def test_a_report_of_a_weak_run_says_so_before_its_answer_and_concludes_nothing_from_it(
    weakness: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = pairs(slow=2.0)
    runs[-1].verdict |= weakness
    text = page_of(tmp_path, monkeypatch, *runs)
    assert text.index("**Before you read on**") < text.index(
        f"rabbitmq/steady/3{':' if said.startswith('the') else ''} {said}"
    )
    assert text.index(said) < text.index(" kept every promise")
    # Two repeats are left of the three that an interval needs.
    assert "is lower" not in text.replace("lower is better", "")
    assert "fewer than 3 repeats: no difference is claimed" in text
