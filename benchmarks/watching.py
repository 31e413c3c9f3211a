"""What is known of the messages while a load runs: read from metrics pages of the shop's processes and its database.

Live figures for whoever looks on, not the verdict: that is computed from a run's files when nothing is on its way any
more. "Lost" is therefore a lower bound: what was published and applied nowhere, less what the broker may still hold.
A figure that cannot be had says why. Not here: the page that shows them (`panel`).
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.exc import SQLAlchemyError

from core.messaging.topology import DEAD_LETTER_GROUP
from core.queries.live import find_orders, newest_event, newly_unsettled, still_unsettled
from core.storage.shop import ShopTables, shop_tables
from core.storage.tables import MessagingTables, messaging_tables

READ_TIMEOUT_S = 3.0
STALE_S = 10.0
"""A figure that was last read longer ago is not shown any more."""
SETTLED_AFTER_S = 5.0
"""Events are watched from this age on: by then every transaction that drew a lower number has ended."""
WATCHED_EVENTS = 5_000
"""Unsettled events of one group that are followed one by one; beyond, the figures say "at least"."""
ORDERS_AT_ONCE = 5_000


class MetricsPage:
    """One process's /metrics, read again and again by one greenlet; its figures are asked for by others."""

    def __init__(self, url: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        """`url`: asked each time, since the host may be changed on Locust's page; "" where there is none yet."""
        self.url = url
        self._clock = clock
        self._client = httpx.Client(timeout=READ_TIMEOUT_S, trust_env=False)
        self._samples: list[tuple[str, dict[str, str], float]] = []
        self._read_at_s = float("-inf")
        self._error = "it has not answered yet"
        self._test_began_s = time.time()
        self._process_began_s: float | None = None
        self._last: Mapping[str, float] = {}
        self.duplicates: Counter[str] = Counter()
        """Group -> messages its inbox knew already, since the test began."""

    @property
    def problem(self) -> str:
        """Why its figures cannot be had; empty where they can."""
        if self._clock() - self._read_at_s <= STALE_S:
            return ""
        return f"{self.url()}: {self._error}" if self.url() else "no host is set"

    def begin(self) -> None:
        """A test begins: what was counted before is not its own."""
        self._test_began_s = time.time()
        self.duplicates.clear()

    def read(self) -> None:
        if not self.url():
            return
        try:
            answer = self._client.get(self.url()).raise_for_status()
            self.take(answer.text)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._error = str(error) or type(error).__name__

    def take(self, page: str) -> None:
        """Raises ValueError for what is no page of metrics."""
        self._samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name.startswith(("shop_", "process_start"))
        ]
        self._read_at_s = self._clock()
        self._count_duplicates()

    def value(self, name: str) -> float | None:
        """Of a series without labels."""
        return next((value for found, _, value in self._samples if found == name), None)

    def label(self, name: str, label: str) -> str | None:
        return next((labels[label] for found, labels, _ in self._samples if found == name), None)

    def by_group(self, name: str, join: Callable[[float, float], float]) -> dict[str, float]:
        """Group -> its series joined into one figure; empty while the page cannot be read."""
        samples = () if self.problem else self._samples
        return _joined(((labels["group"], value) for sample, labels, value in samples if sample == name), join)

    def _count_duplicates(self) -> None:
        began_s = self.value("process_start_time_seconds") or 0.0
        counts = self.by_group("shop_duplicates_dropped_total", _plus)
        if began_s != self._process_began_s:
            # A process that began during the test, or since it was last looked at, began at 0.
            is_new = self._process_began_s is not None or began_s >= self._test_began_s
            self._last, self._process_began_s = {} if is_new else counts, began_s
        for group, count in counts.items():
            self.duplicates[group] += int(count - self._last.get(group, 0))
        self._last = counts


@dataclass
class GroupWatch:
    """One group's events of the test that it has not settled."""

    types: Collection[str]
    seen_to: int = 0
    """Every row of `event` up to this one was looked at."""
    unsettled: dict[int, float | None] = field(default_factory=dict)
    """Row -> when (clock) it was first seen to be out of the outbox; None while it is in it."""
    lost: int | None = None
    """At least so many; None: how many the broker may still hold is not known."""

    def overdue(self, now_s: float, after_s: float) -> int:
        return sum(since_s is not None and now_s - since_s >= after_s for since_s in self.unsettled.values())


class DatabaseWatch:
    """Follows the test's events and acknowledged orders through the database. One greenlet looks."""

    def __init__(
        self,
        engine: Engine,
        tables: MessagingTables,
        shop: ShopTables,
        groups: Mapping[str, Collection[str]],
        lost_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`groups`: event types by group."""
        self._engine = engine
        self._tables = tables
        self._shop = shop
        self._lost_after_s = lost_after_s
        self._clock = clock
        self._begun = False
        self._newest = 0
        self._looked_at_s = float("-inf")
        self._error = "it was not asked yet"
        self.groups = {group: GroupWatch(types) for group, types in groups.items()}
        self._unchecked: list[str] = []
        self.unstored: set[str] = set()
        """Acknowledged orders that were looked for and are not there."""

    @property
    def problem(self) -> str:
        return "" if self._clock() - self._looked_at_s <= STALE_S else f"the database: {self._error}"

    def begin(self) -> None:
        """A test begins: only what is committed from now on is its own."""
        self._begun, self._unchecked, self.unstored = False, [], set()
        try:
            with self._engine.connect() as connection:
                self._mark(connection)
        except SQLAlchemyError as error:
            self._error = _first_line(error)

    def look(self, lags: Mapping[str, float], orders: Sequence[str]) -> None:
        """`lags`: messages that the broker owes each group, asked lately. `orders`: acknowledged since the last look.

        An event that is overdue now was out of the outbox and unsettled when the lag was asked. So unless it was lost
        it is in that lag, or in that of the dead letters.
        """
        self._unchecked += orders
        try:
            with self._engine.connect() as connection:
                if not self._begun:
                    self._mark(connection)
                self._newest = newest_event(connection, self._tables, self._newest, SETTLED_AFTER_S)
                for group, watch in self.groups.items():
                    self._follow(connection, group, watch)
                    held = lags.get(group), lags.get(DEAD_LETTER_GROUP)
                    watch.lost = None
                    if held[0] is not None and held[1] is not None:
                        watch.lost = max(0, self.overdue(group) - int(held[0] + held[1]))
                asked = [*self._unchecked, *self.unstored][:ORDERS_AT_ONCE]
                found = find_orders(connection, self._shop, asked) if asked else set()
                self.unstored = self.unstored.union(asked) - found
                del self._unchecked[: len(asked)]
            self._looked_at_s = self._clock()
        except SQLAlchemyError as error:
            self._error = _first_line(error)

    def overdue(self, group: str) -> int:
        return self.groups[group].overdue(self._clock(), self._lost_after_s)

    def _mark(self, connection: Connection) -> None:
        self._newest = newest_event(connection, self._tables, 0, 0.0)
        self.groups = {group: GroupWatch(watch.types, self._newest) for group, watch in self.groups.items()}
        self._begun = True

    def _follow(self, connection: Connection, group: str, watch: GroupWatch) -> None:
        tables, now_s = self._tables, self._clock()
        found = still_unsettled(connection, tables, group, list(watch.unsettled)) if watch.unsettled else []
        room = WATCHED_EVENTS - len(found)
        if room and watch.seen_to < self._newest:
            new = newly_unsettled(connection, tables, group, watch.types, watch.seen_to, self._newest, room)
            watch.seen_to = new[-1].number if len(new) == room else self._newest
            found += new
        watch.unsettled = {
            event.number: None if event.is_pending else _first(watch.unsettled.get(event.number), now_s)
            for event in found
        }


class Messages:
    """Everything the panel shows."""

    def __init__(
        self,
        api: MetricsPage,
        pages: Sequence[MetricsPage],
        database: DatabaseWatch | None,
        lost_after_s: float,
    ) -> None:
        """`pages`: of the processes that consume. `database` None: its address was not given."""
        self.api = api
        self.pages = pages
        self.database = database
        self._lost_after_s = lost_after_s
        self.acknowledged: list[str] = []
        """Orders acknowledged since the last look; whoever sends puts them here."""
        self._acknowledged = 0

    def begin(self) -> None:
        self.acknowledged.clear()
        self._acknowledged = 0
        for page in (self.api, *self.pages):
            page.begin()
        if self.database is not None:
            self.database.begin()

    def look(self) -> None:
        """At the database, once the pages were read."""
        orders = self.acknowledged[:]
        del self.acknowledged[: len(orders)]
        self._acknowledged += len(orders)
        if self.database is not None:
            self.database.look(self._lags(), orders)

    def figures(self) -> dict[str, Any]:
        """What the page shows: single figures and a table by group, each with what it means and why it is not known."""
        columns = [*self._from_pages(), *self._from_database()]
        groups = sorted({group for column in columns for group in column["values"]})
        totals = {column["key"]: _sum(column["values"].values()) for column in columns}
        why = {column["key"]: column["why"] for column in columns}
        say_lost = "At least so many events are lost: overdue, and not among what the broker still owes. Of all groups."
        return {
            "figures": [
                *self._from_api(),
                *self._orders(),
                _figure("duplicates", "Duplicates dropped", totals["duplicates"], "Of all groups.", why["duplicates"]),
                _figure("letters", "Dead letters", totals["letters"], "Open ones of all groups.", why["letters"]),
                _figure("lost", "Lost so far", totals["lost"], say_lost, why["lost"]),
            ],
            "columns": [{name: column[name] for name in ("key", "title", "says", "why")} for column in columns],
            "groups": [
                {"group": group, **{column["key"]: column["values"].get(group) for column in columns}}
                for group in groups
            ],
        }

    def _from_api(self) -> list[dict[str, Any]]:
        api, away = self.api, self.api.problem
        unread = away or ("the API cannot reach its database" if api.value("shop_outbox_readable") != 1 else "")
        depth, age, parked = (
            None if unread else api.value(f"shop_outbox_{name}")
            for name in ("depth_messages", "age_seconds", "parked_keys")
        )
        broker = None if away else api.label("shop_info", "broker")
        return [
            _figure("broker", "Broker in use", broker, "As the API that is under load was started.", away),
            _figure("depth", "Outbox depth", depth, "Events committed and not yet confirmed by the broker.", unread),
            _figure("age", "Outbox age, s", age, "Since the oldest of them was committed.", unread),
            _figure("parked", "Parked keys", parked, "Keys whose event the broker refused; they wait for you.", unread),
        ]

    def _orders(self) -> list[dict[str, Any]]:
        database, why = self.database, self._no_database()
        return [
            _figure(
                "acknowledged", "Orders acknowledged", self._acknowledged, "Of this test, answered with success.", ""
            ),
            _figure(
                "unstored",
                "Of them not stored",
                len(database.unstored) if database and not why else None,
                "The API promised them, and the database does not have them.",
                why,
            ),
        ]

    def _from_pages(self) -> list[dict[str, Any]]:
        lag, delay, duplicates = self._lags(), self._by_group("shop_group_delay_seconds", max, max), Counter[str]()
        for page in self._readable():
            duplicates.update(dict.fromkeys(page.by_group("shop_delivered_total", _plus), 0))
            duplicates.update(page.duplicates)
        letters = {} if self.api.problem else self.api.by_group("shop_open_letters", _plus)
        if not self.api.problem:
            letters = {**dict.fromkeys([*lag, *(self.database.groups if self.database else ())], 0.0), **letters}
        why = self._no_pages()
        return [
            _column("lag", "Lag", lag, "Messages that the broker owes the group.", "" if lag else why),
            _column(
                "delay", "Delay, s", delay, "Age of the oldest of them, where the broker tells.", "" if lag else why
            ),
            _column(
                "duplicates",
                "Duplicates dropped",
                dict(duplicates),
                "Messages of this test that came again and were not applied again.",
                "" if self._readable() else why,
            ),
            _column(
                "letters", "Dead letters", letters, "Given up and still open; `testbed dlq list`.", self.api.problem
            ),
        ]

    def _from_database(self) -> list[dict[str, Any]]:
        database, why = self.database, self._no_database()
        watched = database.groups if database and not why else {}
        waiting = {group: len(watch.unsettled) for group, watch in watched.items()}
        overdue = {group: database.overdue(group) for group in watched} if database else {}
        lost = {group: watch.lost for group, watch in watched.items() if watch.lost is not None}
        no_lag = "the lag of the group, or of the dead letters, is not known" if not lost else ""
        after = f"{self._lost_after_s:g} s"
        return [
            _column(
                "waiting",
                "Not applied",
                waiting,
                f"Events of this test, older than {SETTLED_AFTER_S:g} s, not yet applied, ignored or given up; those "
                f"in the outbox included, followed up to {WATCHED_EVENTS:,}.",
                why,
            ),
            _column("overdue", "Overdue", overdue, f"Of them, out of the outbox for more than {after}.", why),
            _column("lost", "Lost, at least", lost, "Overdue, less what the broker still owes.", why or no_lag),
        ]

    def _readable(self) -> list[MetricsPage]:
        return [
            page for page in (self.api, *self.pages) if not page.problem and page.value("shop_lag_readable") is not None
        ]

    def _lags(self) -> dict[str, float]:
        return self._by_group("shop_group_lag_messages", _plus, max)

    def _by_group(
        self, name: str, join: Callable[[float, float], float], among: Callable[[float, float], float]
    ) -> dict[str, float]:
        """Topics joined; and among the pages, which all asked the same broker, the worst."""
        pages = (self.api, *self.pages)
        return _joined((pair for page in pages for pair in page.by_group(name, join).items()), among)

    def _no_database(self) -> str:
        if self.database is None:
            return "needs DATABASE_URL in the shell that starts Locust, as `testbed up --env` prints it"
        return self.database.problem

    def _no_pages(self) -> str:
        if any(page.value("shop_lag_readable") == 0 for page in self._readable()):
            return "the consumers cannot reach the broker"
        problems = [page.problem for page in self.pages if page.problem]
        if problems:
            return "; ".join(problems)
        return (
            "needs a consumer's metrics: start it with METRICS_PORT=9101, and Locust with "
            "--consumer-metrics http://127.0.0.1:9101/metrics"
        )


def watch_database(engine: Engine, groups: Mapping[str, Collection[str]], lost_after_s: float) -> DatabaseWatch:
    metadata = MetaData()
    return DatabaseWatch(engine, messaging_tables(metadata), shop_tables(metadata), groups, lost_after_s)


def _figure(key: str, title: str, value: float | str | None, says: str, why: str) -> dict[str, Any]:
    return {"key": key, "title": title, "value": value, "says": says, "why": why if value is None else ""}


def _column(key: str, title: str, values: Mapping[str, float], says: str, why: str) -> dict[str, Any]:
    return {"key": key, "title": title, "values": values, "says": says, "why": why}


def _joined(pairs: Iterable[tuple[str, float]], join: Callable[[float, float], float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for group, value in pairs:
        found[group] = join(found[group], value) if group in found else value
    return found


def _sum(values: Collection[float]) -> float | None:
    return sum(values) if values else None


def _plus(one: float, other: float) -> float:
    return one + other


def _first(since_s: float | None, now_s: float) -> float:
    return now_s if since_s is None else since_s


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
