"""The panel's figures from metrics pages: whose they are, since when they count, what is said where one is lacking."""

import time
from typing import Any

from benchmarks.watching import STALE_S, Messages, MetricsPage


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def page_of(*lines: str, clock: Clock | None = None) -> MetricsPage:
    page = MetricsPage(lambda: "http://shop/metrics", clock or Clock())
    if lines:
        page.take("\n".join(lines) + "\n")
    return page


def api_of(*lines: str) -> MetricsPage:
    return page_of(
        'shop_info{broker="rabbitmq"} 1',
        "shop_outbox_readable 1",
        "shop_outbox_depth_messages 12",
        "shop_outbox_age_seconds 3.5",
        "shop_outbox_parked_keys 1",
        'shop_open_letters{group="email-service"} 2',
        *lines,
    )


def lag_of(*messages: int, group: str = "email-service") -> list[str]:
    lines = [f'shop_group_lag_messages{{group="{group}",topic="t{topic}"}} {m}' for topic, m in enumerate(messages)]
    return [*lines, f'shop_group_delay_seconds{{group="{group}",topic="t0"}} {max(messages)}', "shop_lag_readable 1"]


def shown(messages: Messages) -> dict[str, Any]:
    told = messages.figures()
    figures = {one["key"]: one["why"] or one["value"] for one in told["figures"]}
    return {**figures, **{group.pop("group"): group for group in told["groups"]}}


def test_outbox_broker_and_dead_letters_are_those_that_the_api_shows() -> None:
    figures = shown(Messages(api_of(), [], None, 30))
    assert {name: figures[name] for name in ("broker", "depth", "age", "parked", "letters")} == {
        "broker": "rabbitmq",
        "depth": 12,
        "age": 3.5,
        "parked": 1,
        "letters": 2,
    }


def test_lag_adds_up_over_topics_but_not_over_consumers_which_all_ask_the_same_broker() -> None:
    pages = [page_of(*lag_of(3, 4)), page_of(*lag_of(2, 4))]
    group = shown(Messages(api_of(), pages, None, 30))["email-service"]
    assert (group["lag"], group["delay"]) == (7, 4)


def duplicates_page(page: MetricsPage, began_s: float, count: int) -> int:
    page.take(
        f"process_start_time_seconds {began_s}\nshop_lag_readable 1\n"
        f'shop_duplicates_dropped_total{{group="g"}} {count}\n'
    )
    return page.duplicates["g"]


def test_duplicates_count_from_the_start_of_the_test_over_restarts_of_the_consumer() -> None:
    page = page_of()
    assert duplicates_page(page, 1, 5) == 0
    page.begin()
    assert duplicates_page(page, 1, 8) == 3
    assert duplicates_page(page, 2, 2) == 5
    assert duplicates_page(page, 2, 2) == 5
    page.begin()
    assert duplicates_page(page, 2, 3) == 1


def test_all_duplicates_of_a_consumer_that_began_during_the_test_are_the_tests_own() -> None:
    assert duplicates_page(page_of(), time.time() + 1, 4) == 4


def test_duplicates_add_up_over_consumers() -> None:
    pages = [page_of(), page_of()]
    for page in pages:
        duplicates_page(page, time.time() + 1, 4)
    figures = shown(Messages(api_of(), pages, None, 30))
    assert (figures["duplicates"], figures["g"]["duplicates"]) == (8, 8)


def test_a_figure_without_its_source_says_what_it_needs() -> None:
    figures = shown(Messages(api_of(), [], None, 30))
    assert "METRICS_PORT" in figures["duplicates"]
    assert "DATABASE_URL" in figures["unstored"]
    assert "DATABASE_URL" in figures["lost"]
    why = {column["key"]: column["why"] for column in Messages(api_of(), [], None, 30).figures()["columns"]}
    assert "METRICS_PORT" in why["lag"]
    assert "DATABASE_URL" in why["waiting"]
    assert why["letters"] == ""


def test_a_page_that_answers_no_more_is_named_and_its_old_figures_are_not_shown() -> None:
    clock = Clock()
    api = page_of("shop_outbox_readable 1", "shop_outbox_depth_messages 12", clock=clock)
    assert shown(Messages(api, [], None, 30))["depth"] == 12
    clock.now_s += STALE_S + 1
    assert "http://shop/metrics" in shown(Messages(api, [], None, 30))["depth"]


def test_consumers_that_cannot_reach_the_broker_are_not_taken_for_consumers_without_lag() -> None:
    page = page_of("shop_lag_readable 0")
    columns = {column["key"]: column for column in Messages(api_of(), [page], None, 30).figures()["columns"]}
    assert columns["lag"]["why"] == "the consumers cannot reach the broker"


def test_an_api_without_its_database_shows_no_depth() -> None:
    api = page_of("shop_outbox_readable 0", 'shop_info{broker="kafka"} 1')
    figures = shown(Messages(api, [], None, 30))
    assert (figures["broker"], figures["depth"]) == ("kafka", "the API cannot reach its database")
