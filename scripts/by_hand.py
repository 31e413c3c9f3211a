"""One order, watched by hand: start the stack, order, look at the notifications, dump the topic from the beginning.

    python scripts/by_hand.py kafka|rabbitmq [auto|native|docker|external]

Prints each step; exits 1 at the first that does not hold, saying why. The services stay up (`testbed down` stops them),
the roles end with this script.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from servers.process import free_ports
from testbed import wiring
from testbed.settings import read_settings

CLI = (sys.executable, "-m", "testbed.cli")
CUSTOMER = f"by-hand-{os.getpid()}"
WITHIN_S = float(os.environ.get("BY_HAND_WITHIN_S", "10"))
T = TypeVar("T")


def main(broker: str, provider: str = "auto") -> None:
    print(f"1. start: services, tables, topics, API, relay and notification-service on {broker}", flush=True)
    os.environ["BROKER"] = broker
    said = _run("up", "--broker", broker, "--provider", provider, "--env")
    os.environ.update(re.findall(r"export (\w+)='([^']*)'", said))
    _run("init")
    os.environ["API_PORT"] = str(free_ports(1)[0])
    with tempfile.TemporaryFile() as log:
        roles = [
            subprocess.Popen([*CLI, *words], stdout=log, stderr=log)
            for words in (["serve"], ["relay"], ["consume", "notification-service"])
        ]
        try:
            _four_steps()
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4_000:], file=sys.stderr)
            raise
        finally:
            for role in roles:
                role.terminate()
            for role in roles:
                role.wait(30)
    print("all four steps hold")


def _four_steps() -> None:
    _until(lambda: _call("GET", "/health/ready").get("status") == "ready", 60.0, "the API is not ready")
    print("2. POST /api/orders: two pieces of product 1", flush=True)
    order = _call("POST", "/api/orders", {"items": [{"productId": 1, "quantity": 2}]})
    _must(order.get("status") == "PENDING", f"the order is not PENDING: {order}")
    print(f"   order {order['orderNumber']} over {order['totalAmount']}")

    print("3. GET /api/notifications", flush=True)
    told = _until(lambda: _call("GET", "/api/notifications")["notifications"], WITHIN_S, "nobody was notified")
    print(f"   {told[0]['type']}: {told[0]['message']}")
    _must([one["type"] for one in told] == ["ORDER_CREATED"], f"not one notification of the order: {told}")
    _must(order["orderNumber"] in told[0]["message"], "the notification does not name the order")

    print("4. the topic order-events from its beginning", flush=True)
    admin = wiring.connect_broker(read_settings()).admin()
    dump = [delivery.envelope for delivery in admin.read_all("order-events") if delivery.envelope]
    admin.close()
    for envelope in dump:
        print(f"   {envelope.occurred_at:%H:%M:%S.%f} {envelope.key} {envelope.type} {json.loads(envelope.data)}")
    mine = [(envelope.type, envelope.sequence) for envelope in dump if envelope.key == order["id"]]
    _must(mine == [("OrderCreated", 1)], f"the log holds {mine} of the order, not its OrderCreated alone")


def _run(*words: str) -> str:
    done = subprocess.run([*CLI, *words], capture_output=True, text=True)
    _must(done.returncode == 0, f"testbed {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def _call(method: str, path: str, body: object = None) -> dict[str, Any]:
    """The answer; nothing while nobody answers. Raises HTTPError for an answer that is no success."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_token()}"}
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{os.environ['API_PORT']}{path}", data, headers, method=method)
    try:
        with urlopen(request, timeout=20) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except URLError as error:
        if isinstance(error.reason, ConnectionError):
            return {}
        raise


def _token() -> str:
    return wiring.development_token(read_settings(), CUSTOMER)


def _until(ask: Callable[[], T], within_s: float, otherwise: str) -> T:
    give_up_at = time.monotonic() + within_s
    while not (found := ask()):
        _must(time.monotonic() < give_up_at, f"{otherwise} within {within_s:g} s")
        time.sleep(0.1)
    return found


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"by hand: {otherwise}")


if __name__ == "__main__":
    main(*sys.argv[1:])
