"""Orders at the API, open loop, inside Locust. `locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000`

Locust waits for an answer before a user's next request (closed loop), which hides a slow server. So here a user is a
source of arrivals: each is sent at its intended time by a greenlet of its own, whatever the answers, and Locust's
figures count from the intended time. What could not be sent, because too many requests were open, is recorded.

By hand: each user sends `--rate-per-user` orders a second for as long as the test runs; history only if HISTORY_DIR is
set. Inside `testbed run`: one user, the scenario's schedule from LOAD_PLAN (JSON: load, seed, start_ns, token).
"""

import itertools
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, events, task
from locust.env import Environment

from benchmarks.pacer import arrivals
from benchmarks.scenario import Load
from history.recorder import Recorder

_PLAN: dict[str, Any] = json.loads(os.environ.get("LOAD_PLAN", "{}"))
_RECORDER = Recorder(Path(os.environ["HISTORY_DIR"]), "driver") if os.environ.get("HISTORY_DIR") else None
_user_numbers = itertools.count()


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    parser.add_argument("--rate-per-user", type=float, default=5.0, help="orders a second that each user sends")
    parser.add_argument("--products", type=int, default=50, help="products in the catalogue (testbed serve seeds 50)")
    parser.add_argument("--token", default=os.environ.get("TOKEN", ""), help="bearer token: see `testbed token`")


@events.quit.add_listener
def _close(**_: Any) -> None:
    if _RECORDER is not None:
        _RECORDER.close()


class OrderSource(FastHttpUser):
    """One source of orders; open loop."""

    connection_timeout = 5.0
    network_timeout = 10.0
    concurrency = 1_000

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self.products: int = options.products
        if _PLAN:
            self.load = Load.model_validate(_PLAN["load"])
            self.seed: int = _PLAN["seed"]
            self.start_ns: int = _PLAN["start_ns"]
            self.token: str = _PLAN["token"]
            self.products = self.load.products
        else:
            self.load = Load(rate_per_s=options.rate_per_user, warm_up_s=0, duration_s=86_400)
            self.seed = random.randrange(2**32)
            self.start_ns = time.time_ns()
            self.token = options.token
        self.choices = random.Random(f"orders {self.seed} {next(_user_numbers)}")
        self.open = Pool(self.load.max_in_flight)

    @task
    def follow_the_schedule(self) -> None:
        # Anchored once: the wall clock may be set while the test runs, the schedule must not jump with it.
        anchor_ns = time.time_ns() - time.monotonic_ns()
        for order, at_s in self.arrivals():
            intended_ns = self.start_ns + round(at_s * 1e9)
            wait_s = (intended_ns - anchor_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                gevent.sleep(wait_s)
            if self.open.full():
                self.skip(intended_ns)
            else:
                self.open.spawn(self.look if isinstance(order, int) else self.send, order, intended_ns)
        self.open.join(timeout=self.network_timeout + self.connection_timeout)
        self.environment.runner.quit()

    def arrivals(self) -> Iterator[tuple[dict[str, Any] | int, float]]:
        """The body of an order, or the number of a product to look at, with its due time; the same for a seed."""
        for at_s in arrivals(self.load, self.seed):
            if self.load.views_ratio and self.choices.random() < self.load.views_ratio:
                yield self.product(), at_s
                continue
            lines = [
                {"productId": self.product(), "quantity": self.choices.randint(1, 3)}
                for _ in range(self.choices.choice((1, 1, 1, 2, 3)))
            ]
            yield {"items": lines, "shippingAddress": "1 Test Street"}, at_s

    def product(self) -> int:
        if self.load.hot_ratio and self.choices.random() < self.load.hot_ratio:
            return 1
        return self.choices.randint(1, self.products)

    def skip(self, intended_ns: int) -> None:
        if _RECORDER is not None:
            _RECORDER.skipped([intended_ns])
        self.environment.events.request.fire(
            request_type="POST",
            name="not sent: too many open",
            response_time=0,
            response_length=0,
            exception=OverflowError(f"{self.load.max_in_flight} requests are open"),
            context={},
        )

    def look(self, product: int, intended_ns: int) -> None:
        """Without an idempotency key, so without a line at the client boundary: its event is accounted for later."""
        with self.client.get(
            f"/api/v1/products/{product}",
            headers={"Authorization": f"Bearer {self.token}"},
            name="GET /api/v1/products/{id}",
            catch_response=True,
        ) as answer:
            answer.request_meta["response_time"] = (time.time_ns() - intended_ns) / 1e6

    def send(self, body: dict[str, Any], intended_ns: int) -> None:
        key = str(uuid.UUID(int=random.getrandbits(128), version=4))
        if _RECORDER is not None:
            _RECORDER.requested([key], [intended_ns])
        with self.client.post(
            "/api/v1/orders",
            json=body,
            headers={"Idempotency-Key": key, "Authorization": f"Bearer {self.token}"},
            name="POST /api/v1/orders",
            catch_response=True,
        ) as answer:
            status = answer.status_code or 0
            # Locust would count from the real send; a late send is the user's wait too.
            answer.request_meta["response_time"] = (time.time_ns() - intended_ns) / 1e6
            if 200 <= status < 300:
                outcome = "acknowledged"
                answer.success()
            elif 400 <= status < 500:
                outcome = "rejected"
                answer.failure(f"HTTP {status}")
            else:
                outcome = "unknown"
                answer.failure(f"HTTP {status or 'no answer'}")
        if _RECORDER is not None:
            _RECORDER.answered([key], [outcome])
