"""Locust's own page, in a browser, over the real roles on a real broker: the tab "Messages" shows what is true."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import text

from servers.process import free_ports
from testbed import wiring
from testbed.role_process import ROOT
from tests.system.live_shop import settings_for
from tests.system.role_processes import Roles, prepared_roles
from tests.waiting import until

LOST_AFTER_S = 2
WAIT_S = 180
GROUPS = "product-metrics,read-model"


@pytest.fixture
def roles(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Roles]:
    settings = settings_for("rabbitmq", database, request, groups=GROUPS)
    with prepared_roles(settings, tmp_path) as running:
        for role in ("serve", "relay", "consume"):
            running.launch(role)
        yield running


@pytest.fixture
def locust(roles: Roles, tmp_path: Path) -> Iterator[str]:
    """The address of Locust's page; two sources are sending. All processes start side by side."""
    port = free_ports(1)[0]
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(ROOT / "benchmarks" / "locustfile.py"),
        "--rate-per-user",
        "10",
    ]
    command += [
        "--web-host",
        "127.0.0.1",
        "--web-port",
        str(port),
        "--equal-weights",
        "--products",
        "10",
        "--lost-after",
        str(LOST_AFTER_S),
    ]
    command += ["--host", f"http://127.0.0.1:{roles.ports['serve']}"]
    command += ["--consumer-metrics", f"http://127.0.0.1:{roles.ports['consume']}/metrics"]
    token = wiring.development_token(roles.settings, "c-1")
    environment = {**os.environ, **wiring.as_environment(roles.settings), "PYTHONPATH": str(ROOT), "TOKEN": token}
    with (tmp_path / "locust.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "OrderSource", "CatalogueSource"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "locust.log").read_text()
        try:
            return requests.get(f"{url}/messages/figures", timeout=20).ok
        except requests.ConnectionError:
            return False

    try:
        until(answers, WAIT_S)
        until(lambda: all(roles.answers(role) for role in roles.processes), WAIT_S)
        requests.post(f"{url}/swarm", data={"user_count": 2, "spawn_rate": 2}, timeout=20).raise_for_status()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium on the path: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(1_000 * WAIT_S)
        yield page
        browser.close()


def shown(page: Page, figure: str, group: str = "") -> float:
    place = f'[data-group="{group}"] ' if group else ""
    value = page.locator(f'#messages {place}[data-figure="{figure}"]')
    words = (value if group else value.locator(".value")).inner_text()
    return float(words.replace(",", "")) if words != "–" else -1.0


@pytest.mark.broker("rabbitmq")
def test_the_tab_messages_shows_outbox_lag_and_loss_as_they_truly_are(roles: Roles, locust: str, page: Page) -> None:
    engine = wiring.open_database(roles.settings).engine

    def count(sql: str) -> int:
        with engine.begin() as connection:
            found = connection.execute(text(sql))
            return int(found.scalar_one()) if found.returns_rows else found.rowcount

    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(locust)
    page.get_by_role("tab", name="Messages").click()
    broker = page.locator('#messages [data-figure="broker"] .value')
    until(lambda: broker.inner_text() == "rabbitmq", WAIT_S)
    until(lambda: shown(page, "acknowledged") > 20, WAIT_S)
    until(lambda: shown(page, "lag", "read-model") >= 0 and shown(page, "lag", "product-metrics") >= 0, WAIT_S)
    assert shown(page, "unstored") == 0
    assert shown(page, "lost") <= 0

    # Without a relay the outbox fills, and nothing reaches the groups.
    roles.processes["relay"].send_signal(signal.SIGSTOP)
    until(lambda: shown(page, "depth") > 60, WAIT_S)
    requests.post(f"{locust}/stop", timeout=20).raise_for_status()
    until(lambda: shown(page, "depth") == count("SELECT count(*) FROM pending"), WAIT_S)
    until(lambda: shown(page, "acknowledged") == count("SELECT count(*) FROM orders"), WAIT_S)
    assert shown(page, "age") > 0

    # Views that vanish from the outbox were promised to product-metrics and to no other group. The newest: the oldest
    # the relay may have published before it was stopped.
    lost = count(
        "DELETE FROM pending WHERE id IN (SELECT id FROM event JOIN pending USING (id) "
        "WHERE event_type = 'ProductViewed' ORDER BY id DESC LIMIT 7)"
    )
    assert lost == 7
    until(lambda: shown(page, "lost") == 7, WAIT_S)
    assert shown(page, "overdue", "read-model") == 0
    assert shown(page, "waiting", "read-model") > 0

    roles.processes["relay"].send_signal(signal.SIGCONT)
    until(lambda: shown(page, "depth") == 0, WAIT_S)
    until(lambda: shown(page, "waiting", "read-model") == 0, WAIT_S)
    until(lambda: shown(page, "waiting", "product-metrics") == 7, WAIT_S)
    # RabbitMQ tells what a group has not acked some seconds late; till then at least none is lost.
    until(lambda: shown(page, "lost", "product-metrics") == 7, WAIT_S)

    page.get_by_role("tab", name="Statistics").click()
    page.locator("#messages").wait_for(state="hidden")
    page.goto(f"{locust}/messages/")
    until(lambda: page.locator('#messages [data-figure="lost"] .value').inner_text() == "7", WAIT_S)
    assert complaints == []
    engine.dispose()
