"""The report in a browser: from disk, without the network, in both themes and on a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from analysis.rendering.report import LARGEST_BYTES, render
from tests.histories.comparing import folders_of, small_matrix

THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    comparison = small_matrix(folder)
    return render(folders_of(folder, comparison), folder / "report.html", comparison)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium on the path: apt-get install chromium"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


class Opened:
    """A page, with everything it complained about or asked the network for."""

    def __init__(self, browser: Browser, report: Path, theme: str = "light", width: int = 1280) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())


@pytest.mark.parametrize("theme", THEMES)
def test_it_opens_from_disk_without_errors_and_asks_the_network_for_nothing(
    browser: Browser, report: Path, theme: str
) -> None:
    opened = Opened(browser, report, theme)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    assert report.stat().st_size < LARGEST_BYTES


def test_every_chart_is_drawn_and_named(browser: Browser, report: Path) -> None:
    page = Opened(browser, report).page
    drawn = page.eval_on_selector_all(
        "figure svg.chart",
        "all => all.map(svg => [svg.getAttribute('aria-label'), svg.getBoundingClientRect().height,"
        " svg.querySelectorAll('path, rect, line').length])",
    )
    names = [name for name, _, _ in drawn]
    assert {"Latency against rate", "Strategies against faults", "Recovery by fault", "CPU a million messages"} <= set(
        names
    )
    assert "kill-mid-publish: latency percentiles from commit to effect" in names
    assert len(set(names)) == len(names)
    assert [name for name, height, marks in drawn if height < 40 or marks < 5] == []


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_its_ground_in_both_themes(browser: Browser, report: Path, theme: str) -> None:
    """By the contrast that WCAG 2 asks of text, on the page and in the charts."""
    page = Opened(browser, report, theme).page
    poor = page.evaluate(
        """() => {
        const parts = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = colour => { const [r, g, b] = parts(colour).slice(0, 3).map(c => c / 255)
            .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = node => { for (let at = node; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (parts(colour)[3] !== 0) return colour; } return 'rgb(255,255,255)'; };
        const ratio = (a, b) => {
            const [x, y] = [light(a), light(b)].sort((m, n) => m - n);
            return (y + 0.05) / (x + 0.05); };
        const told = [];
        for (const node of document.querySelectorAll('p, td, th, li, a, summary, figcaption, code, span, svg text')) {
            const style = getComputedStyle(node);
            if (!node.textContent.trim() || node.closest('.skip')) continue;
            const ink = node.tagName === 'text' ? style.fill : style.color;
            const found = ratio(ink, ground(node));
            if (found < 4.5) told.push([node.tagName, node.textContent.slice(0, 30), ink, found]);
        } return told; }"""
    )
    assert poor == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 24, 29)")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_and_charts_scrolls_sideways(browser: Browser, report: Path, width: int) -> None:
    page = Opened(browser, report, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in page.query_selector_all(".answer, .caution, h1, h2, summary"):
        box = part.bounding_box()
        assert box is None or box["x"] + box["width"] <= width


def test_searching_finds_an_event_by_its_id_and_shows_its_life(browser: Browser, report: Path) -> None:
    page = Opened(browser, report).page
    (path,) = report.parent.glob("kafka/relay-crash+consume_strategy=none/1/verdict.json")
    verdict = json.loads(path.read_text())
    event = next(a for a in verdict["anomalies"] if a["name"] == "duplicated_effects")["first"][0]["id"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the answer"
    page.get_by_label("Find an event by its id").fill(event)
    lives = page.locator("details[data-id]:visible")
    assert {lives.nth(n).get_attribute("data-id") for n in range(lives.count())} == {event}
    assert lives.first.get_by_role("row").count() > 5
    assert "shown" in page.locator("#found").inner_text()
    page.get_by_label("Find an event by its id").fill("no-such-id")
    assert page.locator("details[data-id]:visible").count() == 0
    assert page.locator("#found").inner_text().startswith("0 of")


def test_every_link_of_the_contents_and_of_a_lesson_leads_to_a_part_of_the_page(browser: Browser, report: Path) -> None:
    page = Opened(browser, report).page
    lost = page.eval_on_selector_all(
        "nav a, #ladder a", "all => all.map(a => a.getAttribute('href')).filter(to => !document.querySelector(to))"
    )
    assert lost == []
    assert page.locator("nav a").count() > 8
    assert page.locator("#ladder a").count() == 2 * 3


def test_printed_it_is_dark_on_white_and_leaves_out_what_only_a_screen_can_do(browser: Browser, report: Path) -> None:
    page = Opened(browser, report, "dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert not page.get_by_label("Find an event by its id").is_visible()
    assert len(page.pdf()) > 10_000
