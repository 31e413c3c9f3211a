"""The outside world as a process, asked over HTTP: it records before it answers, and lives through SIGKILL."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import orjson
import pytest

from core.effects.gateway import Charge
from core.effects.outside_world import Delivery, HttpOutsideWorld, OutsideError, OutsideFailed, OutsideSilent
from servers.process import free_ports

TEN = Decimal("10.00")


class Outside:
    """The process, killed and started again on the same record."""

    def __init__(self, record: Path) -> None:
        self._port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", "testbed.cli", "outside-world"]
        self._command += ["--port", str(self._port), "--record", str(record)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)
        deadline = monotonic() + 60
        while not self._is_ready():
            assert self.process.poll() is None
            assert monotonic() < deadline
            sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def behave(self, **kinds: dict[str, Any]) -> None:
        httpx.put(f"{self.url}/behaviour", json=kinds, timeout=20).raise_for_status()

    def calls(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in httpx.get(f"{self.url}/calls", timeout=20).iter_lines()]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    running = Outside(tmp_path_factory.mktemp("outside") / "calls.ndjson")
    yield running
    running.process.terminate()
    assert running.process.wait(30) in (0, -signal.SIGTERM)


@pytest.fixture
def client(outside: Outside) -> Iterator[HttpOutsideWorld]:
    outside.behave(payments={}, mails={}, records={})
    client = HttpOutsideWorld(outside.url, timeout_s=20)
    yield client
    client.close()


def mails(*keys: str) -> list[Delivery]:
    return [Delivery(key, {"to": "c-1@example.org"}) for key in keys]


def test_each_call_is_in_the_record_with_what_was_sent(outside: Outside, client: HttpOutsideWorld) -> None:
    assert client.charge("p/1 ?", "o-1", TEN, "CREDIT") == Charge("completed")
    client.cancel("p/1 ?")
    assert client.deliver("mails", mails("m-1", "m-2")) == [None, None]
    assert httpx.post(f"{outside.url}/sms", json={"idempotencyKey": "s-1", "text": "hi"}).json() == {
        "status": "accepted"
    }
    charge, cancel, first, second, sms = outside.calls()[-5:]
    assert (charge["kind"], charge["key"], charge["amount"]) == ("payments", "p/1 ?", 10.0)
    assert charge["body"] == {"orderId": "o-1", "amount": 10.0, "cardType": "CREDIT"}
    assert (cancel["kind"], cancel["key"], cancel["amount"]) == ("cancels", "p/1 ?", -10.0)
    assert [first["key"], second["key"], sms["key"]] == ["m-1", "m-2", "s-1"]
    assert first["body"] == {"to": "c-1@example.org"}


def test_a_charge_that_is_never_answered_was_made_and_its_repeat_is_not_a_second_one(
    outside: Outside, client: HttpOutsideWorld
) -> None:
    outside.behave(payments={"timeout_after_work_ratio": 1})
    impatient = HttpOutsideWorld(outside.url, timeout_s=0.3)
    with pytest.raises(OutsideSilent):
        impatient.charge("p-2", "o-2", TEN, "CREDIT")
    impatient.close()
    outside.behave(payments={})
    assert client.charge("p-2", "o-2", TEN, "CREDIT").status == "completed"
    seen = [call for call in outside.calls() if call["key"] == "p-2"]
    assert [(call["is_answered"], call["amount"]) for call in seen] == [(False, 10.0), (True, 0.0)]


def test_a_failure_says_that_nothing_was_done(outside: Outside, client: HttpOutsideWorld) -> None:
    outside.behave(payments={"failure_ratio": 1}, mails={"failure_ratio": 0.5, "timeout_after_work_ratio": 0.5})
    with pytest.raises(OutsideFailed):
        client.charge("p-3", "o-3", TEN, "CREDIT")
    keys = [f"m-3-{number}" for number in range(60)]
    outcomes = dict(zip(keys, client.deliver("mails", mails(*keys)), strict=True))
    done = {call["key"] for call in outside.calls() if call["did_work"]}
    assert {key for key, outcome in outcomes.items() if not isinstance(outcome, OutsideFailed)} == done & set(keys)
    assert {type(outcome) for outcome in outcomes.values()} == {OutsideFailed, OutsideSilent, type(None)}
    assert "p-3" not in done


def test_a_wrong_request_is_refused_and_recorded_nowhere(outside: Outside) -> None:
    before = len(outside.calls())
    for path, body in [("/payments", {"idempotencyKey": "x"}), ("/mails", {}), ("/sms/batch", [{}])]:
        assert httpx.post(outside.url + path, json=body).status_code == 422
    assert httpx.put(f"{outside.url}/behaviour", json={"pigeons": {}}).status_code == 422
    assert len(outside.calls()) == before


def test_what_was_answered_before_a_sigkill_is_in_the_record_and_done_once(
    outside: Outside, client: HttpOutsideWorld
) -> None:
    answered: list[str] = []
    numbers = itertools.count()

    def send_until_it_dies() -> None:
        while True:
            key = f"e-{next(numbers)}"
            if client.deliver("records", [Delivery(key, {"n": 1})]) != [None]:
                return
            answered.append(key)

    with ThreadPoolExecutor(4) as pool:
        senders = [pool.submit(send_until_it_dies) for _ in range(4)]
        while len(answered) < 100:
            sleep(0.01)
        outside.process.send_signal(signal.SIGKILL)
        outside.process.wait(30)
        for sender in senders:
            sender.result()
    with pytest.raises(OutsideError):
        client.charge("p-4", "o-4", TEN, "CREDIT")
    outside.start()
    assert client.deliver("records", [Delivery(key, {"n": 1}) for key in answered[-100:]]) == [None] * 100
    done = [call["key"] for call in outside.calls() if call["kind"] == "records" and call["did_work"]]
    assert set(answered) <= set(done)
    assert len(done) == len(set(done))
