"""What one process shows of itself to Prometheus: rates from the probe, depth and lag asked at the scrape.

Where these are looked at: GET /metrics of the API (`testbed.requests_seen`); for a relay or consumer METRICS_PORT.
"""

import logging
import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.journey import Probe, Step
from core.messaging.errors import BrokerError
from core.messaging.outcomes import Outcome
from core.messaging.ports import Broker, Delivery, Failure, Subscriber
from core.outbox.storage import measure_depth
from core.queries.sagas import count_hung_sagas, count_sagas
from core.storage.shop import ShopTables
from core.storage.tables import MessagingTables

log = logging.getLogger(__name__)

BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Every series of one process; which of them move depends on its role."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("http_requests", "Requests answered.", "method", "route", "status")
        self.durations = Histogram(
            "shop_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            ("method", "route"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.in_progress = Gauge("shop_http_requests_in_progress", "Requests being answered.", registry=self.registry)
        self.committed = self._counter("events_committed", "Events committed.")
        self.outcomes = self._counter("publish_outcomes", "Tries to publish, by the broker's answer.", "outcome")
        self.cleared = self._counter("outbox_cleared", "Confirmed events that left the outbox.")
        self.delivered = self._counter("delivered", "Messages handed to a group, repeats included.", "group")
        self.handled = self._counter(
            "handled", "Messages settled: applied, ignored or dead_lettered.", "group", "outcome"
        )
        self.duplicates = self._counter("duplicates_dropped", "Messages the inbox knew already.", "group")
        self.retries = self._counter("retries", "Messages given back to be tried again.", "group")
        self.dead_letters = self._counter("dead_letters", "Tries to give a message up, by outcome.", "group", "outcome")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"shop_{name}", text, labels, registry=self.registry)

    def say(self, **settings: str) -> None:
        """Show what the process was started with, as labels of one series that is always 1."""
        info = Gauge("shop_info", "What the process was started with.", tuple(settings), registry=self.registry)
        info.labels(**settings).set(1)

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def probe(self, inner: Probe) -> Probe:
        return MeteredProbe(inner, self)

    def subscriber(self, inner: Subscriber, group: str) -> Subscriber:
        return MeteredSubscriber(inner, self, group)

    def ask_database(self, engine: Engine, tables: MessagingTables, shop: ShopTables) -> None:
        """Show depth and age of the outbox, open dead letters and sagas, as they are at each scrape."""
        self.registry.register(Asked(lambda: outbox_families(engine, tables), (SQLAlchemyError,), "outbox"))
        self.registry.register(Asked(lambda: saga_families(engine, shop), (SQLAlchemyError,), "sagas"))

    def ask_lag(self, broker: Broker, groups: Sequence[str], alarm_messages: int) -> None:
        """Show at each scrape how far each group is behind, and whether by more than `alarm_messages`."""
        lag = GroupLag(broker, groups, alarm_messages)
        self.registry.register(Asked(lag.families, (BrokerError,), "lag"))

    def serve(self, host: str, port: int) -> None:
        """On a thread of its own, while the process lives. Raises OSError where the port is taken."""
        start_http_server(port, host, self.registry)


class MeteredProbe:
    """Counts what it passes on. A duplicate is a message delivered and acked, but neither applied nor given up."""

    def __init__(self, inner: Probe, metrics: Metrics) -> None:
        self._inner = inner
        self._metrics = metrics
        self._open: dict[str, set[str]] = {}
        """Group -> ids delivered and not settled yet."""

    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        self._inner.reach(step, ids, group=group, outcomes=outcomes)
        metrics = self._metrics
        match step:
            case Step.COMMITTED:
                metrics.committed.inc(len(ids))
            case Step.CONFIRMED:
                for outcome, count in Counts(outcomes or ()).items():
                    metrics.outcomes.labels(str(outcome)).inc(count)
            case Step.CLEARED:
                metrics.cleared.inc(len(ids))
            case Step.DELIVERED if group:
                metrics.delivered.labels(group).inc(len(ids))
                self._open.setdefault(group, set()).update(ids)
            case Step.APPLIED if group:
                for outcome, count in Counts(outcomes or ()).items():
                    metrics.handled.labels(group, str(outcome)).inc(count)
                self._open.setdefault(group, set()).difference_update(ids)
            case Step.ACKED if group:
                repeats = self._open.setdefault(group, set()).intersection(ids)
                metrics.duplicates.labels(group).inc(len(repeats))
                self._open[group] -= repeats
            case _:
                pass


class MeteredSubscriber:
    """Counts retries and dead letters; everything is the inner one's."""

    def __init__(self, inner: Subscriber, metrics: Metrics, group: str) -> None:
        self._inner = inner
        self._retries = metrics.retries.labels(group)
        self._letters = metrics.dead_letters
        self._group = group
        self.receive = inner.receive
        self.ack = inner.ack
        self.close = inner.close

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        self._retries.inc()
        self._inner.retry(failed, after_s, held)

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        outcome = self._inner.dead_letter(delivery, failure, timeout_s)
        self._letters.labels(self._group, str(outcome.status)).inc()
        return outcome


class Asked(Collector):
    """Series that are asked for at each scrape; while their source is away they are left out, and that is shown."""

    def __init__(self, ask: Callable[[], Iterable[Metric]], away: tuple[type[Exception], ...], source: str) -> None:
        self._ask = ask
        self._away = away
        self._source = source

    def describe(self) -> Iterable[Metric]:
        # Without this, registering would ask at once: the source may not be there yet.
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"shop_{self._source}_readable", "1 if it answered this scrape.")
        try:
            yield from list(self._ask())
            up.add_metric((), 1)
        except self._away as error:
            log.warning("source of metrics is away", extra={"source": self._source, "error": str(error).strip()})
            up.add_metric((), 0)
        yield up


def outbox_families(engine: Engine, tables: MessagingTables) -> Iterator[Metric]:
    letters = GaugeMetricFamily("shop_open_letters", "Dead letters on record, not redone.", labels=("group",))
    with engine.connect() as connection:
        depth = measure_depth(connection, tables)
        failed = tables.failed_event.fullname
        rows = connection.exec_driver_sql(
            f"SELECT consumer_group, count(*) FROM {failed} WHERE redone_at IS NULL GROUP BY 1"
        )
        for group, count in rows:
            letters.add_metric((group,), count)
    yield GaugeMetricFamily("shop_outbox_depth_messages", "Events not yet cleared.", value=depth.depth_messages)
    yield GaugeMetricFamily("shop_outbox_age_seconds", "Age of the oldest of them.", value=depth.age_s)
    yield GaugeMetricFamily("shop_outbox_parked_keys", "Keys that wait for someone on call.", value=depth.parked_keys)
    yield letters


def saga_families(engine: Engine, shop: ShopTables) -> Iterator[Metric]:
    sagas = GaugeMetricFamily("shop_sagas", "Sagas by the last step taken.", labels=("step", "status"))
    with engine.connect() as connection:
        for (step, status), count in count_sagas(connection, shop).items():
            sagas.add_metric((step, status), count)
        hung = count_hung_sagas(connection, shop)
    yield sagas
    yield GaugeMetricFamily("shop_sagas_hung", "Sagas beyond their deadline that nobody has moved on.", value=hung)


class GroupLag:
    """Asks with one admin, kept from scrape to scrape: some brokers connect anew for each."""

    def __init__(self, broker: Broker, groups: Sequence[str], alarm_messages: int) -> None:
        self._alarm_messages = alarm_messages
        self._admin = broker.admin()
        self._groups = groups
        self._lock = threading.Lock()

    def families(self) -> list[Metric]:
        labels = ("group", "topic")
        messages = GaugeMetricFamily("shop_group_lag_messages", "Messages not yet acked by the group.", labels=labels)
        delays = GaugeMetricFamily("shop_group_delay_seconds", "Age of the oldest of them.", labels=labels)
        alarms = GaugeMetricFamily("shop_group_lag_alarm", "1 if behind by more than allowed.", labels=("group",))
        # An admin is for one thread at a time; two scrapers may ask at once.
        with self._lock:
            for group in self._groups:
                lags = self._admin.lag(group)
                behind = sum(lag.lag_messages for lag in lags.values())
                alarms.add_metric((group,), behind > self._alarm_messages)
                for topic, lag in lags.items():
                    messages.add_metric((group, topic), lag.lag_messages)
                    if lag.delay_s is not None:
                        delays.add_metric((group, topic), lag.delay_s)
        return [messages, delays, alarms]
