"""What goes wrong on the command line is told in a line that names the argument or setting, its value and the mend."""

import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.inbox.letters import row_of
from core.messaging.ports import Delivery, Failure
from testbed import wiring
from testbed.cli import main
from testbed.settings import read_settings
from tests.system.live_shop import likes_of

SINCE = "2026-01-31T00:00:00Z"


@pytest.fixture
def shop(database: str) -> wiring.Database:
    """Made by `testbed init`, as far as the database goes."""
    made = wiring.open_database(read_settings(database_url=database))
    made.create()
    made.engine.dispose()
    return made


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, *words: str) -> tuple[int, str]:
    """Exit code and all that was printed, as one line without the frames that long ones are put in."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setattr(sys, "argv", ["testbed", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), re.sub(r"[\s│]+", " ", said.out + said.err)


@pytest.mark.parametrize(
    "words",
    [
        ["audit"],
        ["dlq", "list"],
        ["dlq", "list", "--group", "email-service"],
        ["dlq", "retry"],
        ["dlq", "show", "1"],
        ["trace", "an-order"],
        ["repair"],
        ["replay", "product-metrics", "--since", SINCE],
    ],
)
def test_a_database_without_the_shops_tables_is_named_with_what_makes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database: str, words: list[str]
) -> None:
    code, said = told(monkeypatch, capsys, database, *words)
    shown = re.sub(r":[^:@/]+@", ":***@", database)
    assert said.strip() == (
        f"DATABASE_URL={shown} has not the tables of this shop: run `testbed init`, or name the database that has"
    )
    assert code == 2


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["replay", "product-metrics", "--event", "nope"], "--event nope: use an event id as `testbed trace` shows it"),
        (["audit", "--since", "0001-01-01T00:00:00+14:00"], "use an instant from 1970-01-01 to 9999-01-01"),
        (["repair", "--since", "9999-12-31T23:59:59-14:00"], "use an instant from 1970-01-01 to 9999-01-01"),
        (["dlq", "list", "--group", "emial-service"], "no consumer group 'emial-service'; use one of"),
        (["dlq", "list", "--topic", "oder-events"], "no topic 'oder-events'; use one of catalog-events"),
        (["dlq", "retry", "--topic", "oder-events"], "no topic 'oder-events'; use one of catalog-events"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shop: wiring.Database,
    database: str,
    words: list[str],
    mend: str,
) -> None:
    code, said = told(monkeypatch, capsys, database, *words)
    assert code == 2
    assert mend in said
    assert ("email-service" in said, "order-events" in said) == ("--group" in words, "--topic" in words)


def test_a_letter_of_a_group_that_is_gone_is_listed_and_left_and_the_others_are_redone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shop: wiring.Database, database: str
) -> None:
    now = datetime.now(UTC)
    with shop.engine.begin() as connection:
        for group, event in zip(("dropped-service", "product-metrics"), likes_of(2), strict=True):
            letter = Delivery(event, event.topic, 0, None, key=event.key)
            connection.execute(
                shop.messaging.failed_event.insert(), row_of(letter, event.topic, group, Failure("broken", 5, now, now))
            )
    code, said = told(monkeypatch, capsys, database, "dlq", "list", "--group", "dropped-service", "--json")
    assert (code, "LikeChanged" in said) == (0, True)

    code, said = told(monkeypatch, capsys, database, "dlq", "retry")
    assert code == 1
    assert re.search(r"letter \d+: unhandled: group 'dropped-service' is not known here; the groups there are: ", said)
    assert "1 redone, 0 closed before, 0 failed again, 0 malformed, 1 of unknown groups, 1 open" in said
    shop.engine.dispose()


def test_a_port_that_is_taken_and_a_history_folder_that_is_none_are_refused_by_name(
    database: str, tmp_path: Path
) -> None:
    file = tmp_path / "history"
    file.write_text("no folder")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        no_port = "cannot be listened on: Address already in use."
        for words, settings, reason in (
            (["serve"], {"API_PORT": port}, f"API_HOST=127.0.0.1 API_PORT={port} {no_port}"),
            (["outside-world", "--port", port], {}, f"--port {port} {no_port}"),
            (["relay"], {"HISTORY_DIR": str(file)}, f"HISTORY_DIR={file} takes no history (File exists): name a"),
        ):
            environment = {**os.environ, "DATABASE_URL": database, "BROKER": "kafka", **settings}
            command = [sys.executable, "-m", "testbed.cli", *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert done.stderr.startswith(reason), done.stderr
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
