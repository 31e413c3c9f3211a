"""Load on the API, open loop, inside Locust. `locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000`

Locust waits for an answer before a user's next request (closed loop), which hides a slow server. So here a user is a
source of arrivals: each is sent at its intended time by a greenlet of its own, whatever the answers, and Locust's
figures count from the intended time. What could not be sent, because too many requests were open, is recorded.

By hand: sources of three kinds, as many of each as their weights say, for as long as the test runs; history only if
HISTORY_DIR is set. Inside `testbed run`: one OrderSource, the scenario's schedule from LOAD_PLAN (JSON: load, seed,
start_ns, token). Not here: what a source asks (`sources`), when (`pacer`), the panel of Locust's page (`panel`).
"""

import argparse
import functools
import itertools
import json
import os
import random
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

from benchmarks.pacer import arrivals, follow, repeated
from benchmarks.scenario import Load
from benchmarks.sources import Ask, catalogue, hot_products, orders, tickets
from history.recorder import Recorder

if TYPE_CHECKING:
    from benchmarks.watching import Messages

_PLAN: dict[str, Any] = json.loads(os.environ.get("LOAD_PLAN", "{}"))
ORDER = "/api/v1/orders/"
"""Where an order that was just taken is to be found, before its id."""
_numbers = itertools.count()
_started_ns = time.time_ns()


class _ShowOptions(argparse.Action):
    """Locust's own --help is answered before it reads this file, so it cannot know these options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        shown = argparse.HelpFormatter("locust", max_help_position=32, width=120)
        shown.add_arguments(action for action in parser._actions if action.dest in _OPTIONS)
        print(shown.format_help())
        parser.exit()


_OPTIONS: dict[str, dict[str, Any]] = {
    "rate_per_user": {"type": float, "default": 5.0, "help": "Arrivals a second of each user, whatever the answers."},
    "shape": {
        "choices": ["constant", "ramp", "spike", "wave"],
        "default": "constant",
        "help": "How that rate changes. ramp: up to it; spike: a fifth of it, but for the middle fifth of the time; "
        "wave: a day with its night.",
    },
    "shape_s": {
        "type": float,
        "default": 600.0,
        "help": "Seconds that one ramp, spike or wave takes; then it comes again.",
    },
    "arrivals": {
        "choices": ["poisson", "even"],
        "default": "poisson",
        "help": "Spacing: at random as customers come, or even as a clock ticks.",
    },
    "max_in_flight": {
        "type": int,
        "default": 500,
        "help": "Open requests of a user; what is due beyond them is not sent, and counted as such.",
    },
    "products": {
        "type": int,
        "default": 50,
        "help": "Products asked for, 1 to this. `testbed init` makes 100.",
    },
    "hot_ratio": {"type": float, "default": 0.0, "help": "Share, 0 to 1, of the choices that fall on product 1."},
    "zipf": {
        "type": float,
        "default": 0.0,
        "help": "Product n is chosen in proportion to 1 / n^ZIPF: 1 is much like a shop; 0: each alike.",
    },
    "likes_ratio": {
        "type": float,
        "default": 0.2,
        "help": "Share, 0 to 1, of a CatalogueSource's requests that are likes, or take one back.",
    },
    "seed": {"type": int, "default": 0, "help": "The same arrivals and choices again; 0: others each time."},
    "token": {
        "default": os.environ.get("TOKEN", ""),
        "is_secret": True,
        "help": "Bearer token of a customer, from `testbed token NAME`; several with commas: users take turns. "
        "Default: $TOKEN.",
    },
    "consumer_metrics": {
        "default": "",
        "include_in_web_ui": False,
        "help": "Metrics pages of the consumers, with commas between, for lag and duplicates on the tab Messages: "
        "http://127.0.0.1:9101/metrics for one that was started with METRICS_PORT=9101.",
    },
    "lost_after": {
        "type": float,
        "default": 30.0,
        "include_in_web_ui": False,
        "help": "Seconds after which the tab Messages calls an event overdue that left the outbox and was not applied. "
        "Below 15, what the broker still holds may be called lost: it counts late.",
    },
}


@events.init_command_line_parser.add_listener
def _arguments(parser: Any) -> None:
    for name, option in _OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), **option)
    parser.add_argument(
        "--help-load", action=_ShowOptions, nargs=0, include_in_web_ui=False, help="Show these options of the load."
    )


class _Shown:
    """What is gathered for the panel of Locust's page: the page's own process shows it, a worker hands it on."""

    messages: "Messages | None" = None
    orders: list[str] | None = None
    """Acknowledged and not yet told of; None where nobody shows them."""


@events.init.add_listener
def _show_messages(environment: Environment, web_ui: Any, **_: Any) -> None:
    if web_ui is not None:
        # Here and not above: inside a run nobody looks, and the driver's start is part of the plan.
        from benchmarks.panel import install
        from core.effects.table import GROUPS

        options = environment.parsed_options
        pages = [page for page in options.consumer_metrics.split(",") if page]
        names = [name for name in os.environ.get("GROUPS", "").split(",") if name]
        groups = {name: group.takes for name, group in GROUPS.items() if name in (names or GROUPS)}
        _Shown.messages = install(environment, pages, os.environ.get("DATABASE_URL", ""), groups, options.lost_after)
        _Shown.orders = _Shown.messages.acknowledged
    elif isinstance(environment.runner, WorkerRunner):
        _Shown.orders = []


@events.report_to_master.add_listener
def _hand_on(data: dict[str, Any], **_: Any) -> None:
    if _Shown.orders:
        data["orders"], _Shown.orders[:] = _Shown.orders[:], []


@events.worker_report.add_listener
def _take_over(data: dict[str, Any], **_: Any) -> None:
    if _Shown.orders is not None:
        _Shown.orders.extend(data.get("orders", ()))


@events.test_start.add_listener
def _note_start(**_: Any) -> None:
    global _started_ns
    _started_ns = time.time_ns()
    if _Shown.messages is not None:
        _Shown.messages.begin()


@functools.cache
def _recorder() -> Recorder | None:
    """Opened by the first source and not on import: Locust may fork its workers in between."""
    return Recorder(Path(os.environ["HISTORY_DIR"]), "driver") if os.environ.get("HISTORY_DIR") else None


@events.request.add_listener
def _gather(context: dict[str, Any], response: Any = None, **_: Any) -> None:
    if _Shown.orders is not None and context.get("outcome") == "acknowledged":
        place = response.headers.get("Location", "")
        if place.startswith(ORDER):
            _Shown.orders.append(place.removeprefix(ORDER))


@events.request.add_listener
def _write_history(context: dict[str, Any], **_: Any) -> None:
    recorder = _recorder()
    if recorder is None:
        return
    if "skipped_ns" in context:
        recorder.skipped([context["skipped_ns"]], context["has_key"])
    elif "key" in context:
        recorder.answered([context["key"]], [context["outcome"]])


@events.quit.add_listener
def _close(**_: Any) -> None:
    if _recorder.cache_info().currsize and (recorder := _recorder()) is not None:
        recorder.close()


class Source(FastHttpUser):
    """One source of arrivals, open loop; what it asks is its subclass's."""

    abstract = True
    connection_timeout = 5.0
    network_timeout = 10.0
    concurrency = 1_000

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = environment.parsed_options
        number = next(_numbers)
        if _PLAN:
            self.load = Load.model_validate(_PLAN["load"])
            self.start_ns: int = _PLAN["start_ns"]
            self.token: str = _PLAN["token"]
            self.choices = random.Random(f"orders {_PLAN['seed']} {number}")
            self.due = arrivals(self.load, _PLAN["seed"])
            self.product = hot_products(self.choices, self.load.products, self.load.hot_ratio)
        else:
            self.load = Load(
                shape=self.options.shape,
                arrivals=self.options.arrivals,
                rate_per_s=self.options.rate_per_user,
                warm_up_s=0,
                duration_s=self.options.shape_s,
                max_in_flight=self.options.max_in_flight,
            )
            tokens = self.options.token.split(",")
            self.token = tokens[number % len(tokens)].strip()
            seed = self.options.seed or random.getrandbits(64)
            self.choices = random.Random(f"{type(self).__name__} {seed} {environment.runner.worker_index} {number}")
            # The shapes of all users are in phase; only evenly spaced arrivals must not come all at the same instants.
            self.start_ns = _started_ns + round(self.choices.random() / self.load.rate_per_s * 1e9)
            late_s = max(0.0, (time.time_ns() - self.start_ns) / 1e9)
            self.due = repeated(self.load, self.choices.getrandbits(32), late_s)
            self.product = hot_products(self.choices, self.options.products, self.options.hot_ratio, self.options.zipf)
        self.open = Pool(self.load.max_in_flight)

    @abstractmethod
    def asks(self) -> Iterator[Ask]:
        """What it asks, one after the other, for as long as it is asked."""

    @task
    def follow_the_schedule(self) -> None:
        # Anchored once: the wall clock may be set while the test runs, the schedule must not jump with it.
        anchor_ns = time.time_ns() - time.monotonic_ns()
        follow(
            zip(self.asks(), self.due, strict=False),
            self.start_ns,
            lambda: anchor_ns + time.monotonic_ns(),
            gevent.sleep,
            lambda: not self.open.full(),
            lambda ask, intended_ns: self.open.spawn(self.send, ask, intended_ns),
            self.skip,
        )
        self.open.join(timeout=self.network_timeout + self.connection_timeout)
        self.environment.runner.quit()

    def skip(self, ask: Ask, intended_ns: int) -> None:
        self.environment.events.request.fire(
            request_type=ask.method,
            name="not sent: too many open",
            response_time=0,
            response_length=0,
            exception=OverflowError(f"{self.load.max_in_flight} requests are open"),
            context={"skipped_ns": intended_ns, "has_key": ask.has_key},
        )

    def send(self, ask: Ask, intended_ns: int) -> None:
        headers, context = {"Authorization": f"Bearer {self.token}"}, {}
        if ask.has_key:
            key = str(uuid.UUID(int=random.getrandbits(128), version=4))
            headers["Idempotency-Key"] = context["key"] = key
            if (recorder := _recorder()) is not None:
                recorder.requested([key], [intended_ns])
        with self.client.request(
            ask.method, ask.path, ask.name, json=ask.body, headers=headers, catch_response=True, context=context
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
            answer.request_meta["context"]["outcome"] = outcome


class OrderSource(Source):
    """Orders of one to three products."""

    weight = 3

    def asks(self) -> Iterator[Ask]:
        return orders(self.choices, self.product, self.load.views_ratio)


class CatalogueSource(Source):
    """Looks at products, and likes some."""

    weight = 6

    def asks(self) -> Iterator[Ask]:
        return catalogue(self.choices, self.product, self.options.likes_ratio)


class TicketSource(Source):
    """Applies for tickets of shows."""

    weight = 1

    def asks(self) -> Iterator[Ask]:
        return tickets(self.choices)
