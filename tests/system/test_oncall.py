"""What people on call do to a live system, on every broker: dead letters, parked keys, audit, replay, trace."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from analysis.rendering.closing import closing_report
from core.domain.events import _DECODERS, EVENT_TYPES
from core.effects.table import GROUPS
from core.messaging.topology import DEAD_LETTER_GROUP, Route
from testbed import services, wiring
from testbed.cli import application
from testbed.settings import SettingError
from tests.system.api_server import ORDER, problem_of
from tests.system.live_shop import ALL_GROUPS, BROKERS, PRODUCTS, LiveShop, ids_in, likes_of, live_shop, settings_for
from tests.system.role_processes import Roles
from tests.waiting import until

APPLIED = "SELECT count(*) FROM inbox WHERE consumer_group = :group"
METRICS = "SELECT product_id, likes, views FROM product_metrics ORDER BY product_id"


@pytest.fixture(params=BROKERS)
def shop(request: pytest.FixtureRequest, database: str) -> Iterator[LiveShop]:
    with live_shop(settings_for(request.param, database, request)) as running:
        yield running


@pytest.mark.row("S4.9", "S3.19")
def test_a_hundred_letters_are_redone_once_the_cause_is_mended_and_a_second_call_does_nothing(shop: LiveShop) -> None:
    shop.write("ALTER TABLE product_metrics ADD CONSTRAINT broken CHECK (likes < 0)")
    shop.start("relay", "product-metrics", DEAD_LETTER_GROUP)
    ids = shop.commit_likes(100)
    shop.await_count("SELECT count(*) FROM failed_event WHERE consumer_group = 'product-metrics'", 100)
    assert shop.count(APPLIED, group="product-metrics") == 0
    ask = {"stream": None, "group": "product-metrics", "limit": 200}
    problem_of(shop.call("POST", "/admin/retry-dlq", json=ask), 403)
    still = shop.call("POST", "/admin/retry-dlq", admin=True, json=ask).json()
    assert (still["redone"], still["failed"], still["left"]) == (0, 100, 100)
    assert "broken" in still["letters"][0]["reason"]

    shop.write("ALTER TABLE product_metrics DROP CONSTRAINT broken")
    elsewhere = shop.call("POST", "/admin/retry-dlq", admin=True, json={"group": "product-metrics"}).json()
    assert (elsewhere["redone"], elsewhere["left"]) == (0, 100), "the default is the stream ticket-applied"
    slip = shop.call("POST", "/admin/retry-dlq", admin=True, json={**ask, "stream": "catalogue-events"})
    assert "no topic 'catalogue-events'; use one of catalog-events, " in problem_of(slip, 409)["detail"]
    ask = {**ask, "stream": "marketplace.like.changed"}
    first = shop.call("POST", "/admin/retry-dlq", admin=True, json=ask).json()
    second = shop.call("POST", "/admin/retry-dlq", admin=True, json=ask).json()
    assert (first["redone"], first["left"]) == (100, 0)
    assert (second["redone"], second["closed"], second["left"]) == (0, 0, 0)
    applied = shop.rows("SELECT CAST(event_id AS text) FROM effect WHERE consumer_group = 'product-metrics'")
    assert sorted(id_ for (id_,) in applied) == sorted(ids)


@pytest.mark.row("S2.18", "S3.19")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_letters_of_a_newer_shop_wait_for_the_upgrade_and_are_then_redone_once_by_the_command(
    request: pytest.FixtureRequest, broker: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer shop sends LikeChanged in version 2 and, where the broker hands such over, a type of its own."""
    with live_shop(settings_for(broker, database, request)) as shop:
        liked, shared, plain = likes_of(3)
        newer = replace(
            shop.broker.topology,
            routes={**shop.broker.topology.routes, "LikeShared": Route(liked.topic, "like.shared")},
        )
        sent = [liked._replace(schema_version=2), plain]
        if shop.broker.capabilities.hands_over_unknown_types:
            sent.insert(1, shared._replace(type="LikeShared"))
        publisher = wiring.connect_broker(shop.settings, newer).publisher()
        assert all(outcome.is_confirmed for outcome in publisher.publish(sent, 20))
        publisher.close()
        shop.start("product-metrics", DEAD_LETTER_GROUP)
        shop.await_count("SELECT count(*) FROM failed_event", len(sent) - 1)
        reasons = {id_: reason for id_, reason in shop.rows("SELECT event_id, reason FROM failed_event")}
        assert reasons == {liked.id: "LikeChanged version 2 is newer than 1"} | (
            {shared.id: "unknown event type LikeShared"} if len(sent) == 3 else {}
        )
        shop.await_count(APPLIED, 1, group="product-metrics")
        code, said = cli(shop, "dlq", "retry", "--group", "product-metrics")
        assert (code, f"0 redone, 0 closed before, {len(sent) - 1} failed again" in said) == (1, True), said

        kind = EVENT_TYPES["LikeChanged"]
        monkeypatch.setitem(EVENT_TYPES, "LikeChanged", kind._replace(schema_version=2))  # type: ignore[misc]
        monkeypatch.setitem(EVENT_TYPES, "LikeShared", kind)  # type: ignore[misc]
        monkeypatch.setitem(_DECODERS, "LikeShared", _DECODERS["LikeChanged"])
        group = GROUPS["product-metrics"]
        monkeypatch.setitem(GROUPS, "product-metrics", replace(group, takes=group.takes | {"LikeShared"}))  # type: ignore[misc]
        code, said = cli(shop, "dlq", "retry", "--group", "product-metrics")
        assert (code, f"{len(sent) - 1} redone, 0 closed before, 0 failed again" in said) == (0, True), said
        assert "0 redone" in cli(shop, "dlq", "retry", "--group", "product-metrics")[1]
        assert shop.count("SELECT sum(likes) FROM product_metrics") == len(sent)
        applied = shop.rows("SELECT CAST(event_id AS text) FROM effect WHERE consumer_group = 'product-metrics'")
        assert sorted(id_ for (id_,) in applied) == sorted(event.id for event in sent)


@pytest.mark.row("S4.12", "S4.14", "S4.15")
def test_the_audit_finds_every_planted_loss_and_phantom_and_nothing_else_and_replay_mends_them(shop: LiveShop) -> None:
    shop.start("relay", "product-metrics")
    kept = shop.commit_likes(2_000)
    lost = shop.commit_likes(50, with_pending=False)
    phantoms = likes_of(5, "nobody")
    assert all(outcome.is_confirmed for outcome in shop.broker.publisher().publish(phantoms, 20))
    shop.await_count("SELECT count(*) FROM pending", 0)
    shop.await_count(APPLIED, 2_005, group="product-metrics")
    # Of a consumer that runs RabbitMQ does not tell what it holds.
    shop.stop("product-metrics")
    swallowed, changed = kept[1_000:1_003], kept[1_500]
    shop.write("DELETE FROM inbox WHERE CAST(event_id AS text) = ANY(:ids)", ids=swallowed)
    shop.write("UPDATE event SET payload = '{\"productId\": 1}' WHERE CAST(event_id AS text) = :id", id=changed)

    found = shop.call("GET", "/admin/audit", admin=True).json()
    assert ids_in(found["missing"]) == set(lost)
    assert ids_in(found["extra"]) == {phantom.id for phantom in phantoms}
    assert [(d["id"], list(d["fields"])) for d in found["differing"]] == [(changed, ["data"])]
    assert set(found["groups"]["product-metrics"]["lost"]) == {*lost, *swallowed}
    assert (found["ledgerEvents"], found["logMessages"], found["malformed"]) == (2_050, 2_005, [])
    assert found["exitCode"] == 1
    assert found["ledgerDigest"] != found["logDigest"]
    told = closing_report(found, 7, "abc")
    assert "The books do not balance" in told
    assert lost[0] in told

    ask = {"group": "product-metrics", "eventIds": found["groups"]["product-metrics"]["lost"]}
    problem_of(shop.call("POST", "/admin/replay", json=ask), 403)
    mended = shop.call("POST", "/admin/replay", admin=True, json=ask).json()
    again = shop.call("POST", "/admin/replay", admin=True, json=ask).json()
    assert (mended["applied"], mended["passedOver"], mended["failed"]) == (53, 0, [])
    assert (again["applied"], again["passedOver"]) == (0, 53)
    assert shop.operations.audit(None)["groups"]["product-metrics"]["lost"] == []

    where = shop.call("GET", "/admin/audit", admin=True, params={"about": kept[0]}).json()
    steps = {moment["step"] for moment in where["moments"] if moment["event_id"] == kept[0]}
    assert steps == {"committed", "cleared", "on_the_wire", "applied"}


@pytest.mark.row("S4.10")
@pytest.mark.parametrize("broker", BROKERS)
def test_what_a_group_swallows_is_no_letter_and_the_audit_finds_all_of_it(
    request: pytest.FixtureRequest, broker: str, database: str
) -> None:
    settings = settings_for(broker, database, request, seams={"on_error": "swallow"})
    with live_shop(settings) as shop:
        shop.write("ALTER TABLE product_metrics ADD CONSTRAINT broken CHECK (product_id <> 7)")
        shop.start("relay", "product-metrics", DEAD_LETTER_GROUP)
        ids = shop.commit_likes(200)
        shop.await_count(APPLIED, 198, group="product-metrics")
        admin = shop.broker.admin()
        until(lambda: not any(lag.lag_messages for lag in admin.lag("product-metrics").values()), 60)
        admin.close()
        assert shop.count("SELECT count(*) FROM failed_event") == 0
        shop.stop("product-metrics", DEAD_LETTER_GROUP)
        lost = shop.operations.audit(None)["groups"]["product-metrics"]["lost"]
        assert set(lost) == {ids[6], ids[6 + PRODUCTS]}

        shop.write("ALTER TABLE product_metrics DROP CONSTRAINT broken")
        ask = {"group": "product-metrics", "eventIds": lost}
        assert shop.call("POST", "/admin/replay", admin=True, json=ask).json()["applied"] == 2
        assert shop.operations.audit(None)["groups"]["product-metrics"]["lost"] == []


@pytest.mark.row("S4.12")
def test_an_audit_of_a_system_at_work_calls_nothing_lost(shop: LiveShop) -> None:
    shop.start("relay")
    shop.commit_likes(300)
    shop.await_count("SELECT count(*) FROM pending", 0)
    waiting = shop.operations.audit(None)
    assert (waiting["exitCode"], waiting["groups"]["product-metrics"]["lost"]) == (2, [])
    assert waiting["groups"]["product-metrics"]["unsettled"] == 300
    shop.start("product-metrics")
    shop.await_count(APPLIED, 300, group="product-metrics")
    shop.stop("relay")
    shop.commit_likes(10)
    later = shop.operations.audit(None)
    assert (later["exitCode"], later["waitingEvents"], later["missing"]) == (2, 10, [])
    shop.start("relay")
    shop.await_count(APPLIED, 310, group="product-metrics")
    done = shop.operations.audit(None)
    assert (done["exitCode"], done["ledgerDigest"]) == (0, done["logDigest"])
    assert "Nothing is missing" in closing_report(done, 7, None)
    since = shop.operations.audit(datetime.now(UTC))
    assert (since["ledgerEvents"], since["logMessages"], since["exitCode"]) == (0, 0, 0)


@pytest.mark.row("S4.12")
@pytest.mark.parametrize("broker", ["kafka", "rabbitmq"])
def test_what_a_stopped_consumer_of_another_process_holds_is_never_called_lost(
    request: pytest.FixtureRequest, broker: str, database: str, tmp_path: Path
) -> None:
    """Its batch stands still before the commit, so all is unacked; its session outlasts the audits."""
    settings = settings_for(broker, database, request, groups="product-metrics", session_timeout_s=60.0)
    with live_shop(settings) as shop:
        shop.start("relay")
        ids = shop.commit_likes(300)
        shop.await_count("SELECT count(*) FROM pending", 0)
        roles = Roles(settings, tmp_path)
        try:
            with shop.database.engine.begin() as connection:
                connection.execute(text("LOCK TABLE product_metrics IN ACCESS EXCLUSIVE MODE"))
                roles.start("consume", "product-metrics")
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name"
                shop.await_count(waits, 1, name=shop.database.engine.url.database)
                until(lambda: ready_messages(shop, "product-metrics") == 0, 60)
                roles.processes["consume"].send_signal(signal.SIGSTOP)
            told = [audited(shop)]
            if broker == "rabbitmq":
                url = services.management_url_of(request.getfixturevalue("rabbitmq_server"))
                # The broker's statistics are seconds old: all is in them a little later.
                until(lambda: keep(told, audited(shop, RABBITMQ_MANAGEMENT_URL=url))["lagMessages"] == len(ids), 60)
            roles.processes["consume"].send_signal(signal.SIGCONT)
            shop.await_count(APPLIED, len(ids), group="product-metrics")
        finally:
            roles.stop()
        code, group = audited(shop)
        assert (code, group["lost"], group["untold"]) == (0, [], [])
    for code, group in told:
        assert (code, group["unsettled"], group["lost"]) == (2, len(ids), [])
    found = [(sorted(group["untold"]), group["lagMessages"]) for _, group in told]
    if broker == "kafka":
        assert found == [([], len(ids))]
    else:
        assert found[0] == (sorted(ids), 0)
        assert all(untold == [] and 0 < lag <= len(ids) for untold, lag in found[1:]), found


def keep(told: list[tuple[int, dict[str, Any]]], audit: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    told.append(audit)
    return audit[1]


def audited(shop: LiveShop, **more: str) -> tuple[int, dict[str, Any]]:
    """As another shell sees it: the exit code, and how product-metrics stands."""
    environment = wiring.as_environment(shop.settings) | more
    done = CliRunner().invoke(application([]), ["audit", "--json"], env=environment)
    document: dict[str, Any] = json.loads(done.stdout)
    assert ("does not tell which" in closing_report(document, 7, None)) == bool(
        document["groups"]["product-metrics"]["untold"]
    )
    return done.exit_code, document["groups"]["product-metrics"]


def ready_messages(shop: LiveShop, group: str) -> int:
    """What RabbitMQ has not handed to a consumer yet; on Kafka, which keeps all of it, nothing is waited for."""
    if shop.settings.broker == "kafka":
        return 0
    admin = shop.broker.admin()
    return sum(lag.lag_messages for lag in admin.lag(group).values())


@pytest.mark.row("S0.21")
def test_a_replay_from_the_beginning_equals_a_fresh_build_and_no_other_group_sees_it(shop: LiveShop) -> None:
    others = [group for group in GROUPS if group != "product-metrics"]
    shop.start("relay", *GROUPS)
    shop.commit_likes(300)
    assert shop.call("POST", "/api/v1/orders", json=ORDER).status_code == 201
    shop.await_count("SELECT count(*) FROM orders WHERE status = 'PAID'", 1)
    shop.settle()
    likes = shop.count(APPLIED, group="product-metrics")
    fresh, before = shop.rows(METRICS), shop.rows("SELECT * FROM inbox WHERE consumer_group = ANY(:g)", g=others)
    assert len(fresh) == PRODUCTS
    shop.write("UPDATE product_metrics SET likes = likes + 7 WHERE product_id < 50")

    ask = {"group": "product-metrics", "fromBeginning": True}
    answer = shop.call("POST", "/admin/replay", admin=True, json=ask).json()
    assert answer["applied"] + answer["passedOver"] == likes >= 300
    shop.await_count(APPLIED, likes, group="product-metrics")
    assert shop.rows(METRICS) == fresh
    assert shop.rows("SELECT * FROM inbox WHERE consumer_group = ANY(:g)", g=others) == before
    refused = problem_of(
        shop.call("POST", "/admin/replay", admin=True, json={**ask, "group": "inventory-service"}), 409
    )
    assert "inventory-service" in refused["detail"]
    assert shop.rows("SELECT * FROM inbox WHERE consumer_group = ANY(:g)", g=others) == before

    shop.stop("product-metrics")
    moved = shop.call("POST", "/admin/replay", admin=True, json={**ask, "source": "broker"})
    if shop.settings.broker == "rabbitmq":
        assert "rabbitmq-quorum-pika cannot do this: it has no capability 'replay'" in problem_of(moved, 409)["detail"]
        assert shop.rows(METRICS) == fresh, "what was refused changed nothing"
    else:
        assert moved.json()["moved"] is True
        assert shop.rows(METRICS) == []
        shop.start("product-metrics")
        shop.await_count(APPLIED, likes, group="product-metrics")
        assert shop.rows(METRICS) == fresh


@pytest.mark.long
@pytest.mark.row("S4.12")
def test_an_audit_of_a_hundred_thousand_events_finds_fifty_losses_and_five_phantoms(shop: LiveShop) -> None:
    shop.start("relay")
    for _ in range(20):
        shop.commit_likes(5_000)
    lost = shop.commit_likes(50, with_pending=False)
    phantoms = likes_of(5, "nobody")
    assert all(outcome.is_confirmed for outcome in shop.broker.publisher().publish(phantoms, 20))
    shop.await_count("SELECT count(*) FROM pending", 0, 300)
    found = shop.operations.audit(None)
    assert ids_in(found["missing"]) == set(lost)
    assert ids_in(found["extra"]) == {phantom.id for phantom in phantoms}
    assert (found["differing"], found["malformed"]) == ([], [])
    assert (found["ledgerEvents"], found["exitCode"]) == (100_050, 1)


@pytest.mark.row("S4.11", "S4.13")
def test_an_application_is_found_in_the_log_by_phone_though_the_database_lacks_it(shop: LiveShop) -> None:
    shop.start("relay", "data-platform")
    body = {"show": "Music Bank", "phone": "+82 10-1234-5678"}
    ticket = shop.call("POST", "/api/v1/tickets", json=body).json()["id"]
    other = shop.call("POST", "/api/v1/tickets", json={**body, "phone": "+82 10-9999-5678"}).json()["id"]
    shop.await_count("SELECT count(*) FROM platform_record WHERE status = 'SENT'", 2)
    shop.await_count("SELECT count(*) FROM pending", 0)

    def story() -> dict[str, str]:
        asked = {"phone": "+821012345678"}
        problem_of(shop.call("GET", "/admin/audit", params=asked), 403)
        answer = shop.call("GET", "/admin/audit", admin=True, params=asked)
        assert "1012345678" not in answer.text
        assert other not in answer.text
        return {moment["step"]: moment["what"] for moment in answer.json()["moments"]}

    told = story()
    assert list(told) == ["committed", "cleared", "on_the_wire", "applied", "called_outside"]
    assert "position" in told["on_the_wire"]
    assert told["called_outside"] == "platform_record: SENT after 1 call(s)"

    # What the platform lacks and what the ledger lacks are told apart: each by the step that is not there.
    shop.write(
        "DELETE FROM platform_record WHERE event_id = (SELECT CAST(event_id AS text) FROM event "
        "WHERE aggregate_id = :ticket)",
        ticket=ticket,
    )
    assert list(story()) == ["committed", "cleared", "on_the_wire", "applied"]
    shop.write("DELETE FROM ticket WHERE id = CAST(:ticket AS uuid)", ticket=ticket)
    shop.write("DELETE FROM event WHERE aggregate_id = :ticket", ticket=ticket)
    assert story() == {"on_the_wire": told["on_the_wire"]}


@pytest.mark.row("S0.12")
def test_parked_keys_go_again_when_someone_on_call_says_so(shop: LiveShop) -> None:
    ids = shop.commit_likes(3)
    shop.write(
        "UPDATE pending SET parked_at = now(), next_try_at = now(), attempts = 5, last_error = 'too large' "
        "WHERE key IN ('1', '2')"
    )
    shop.start("relay", "product-metrics")
    shop.await_count(APPLIED, 1, group="product-metrics")
    problem_of(shop.call("POST", "/admin/outbox/requeue", json={}), 403)
    assert shop.call("POST", "/admin/outbox/requeue", admin=True, json={"keys": ["1"]}).json() == {"requeuedKeys": 1}
    shop.await_count(APPLIED, 2, group="product-metrics")
    assert shop.call("POST", "/admin/outbox/requeue", admin=True, json={}).json() == {"requeuedKeys": 1}
    shop.await_count(APPLIED, len(ids), group="product-metrics")


@pytest.mark.row("S0.44")
def test_one_trace_joins_http_outbox_wire_and_effects(shop: LiveShop, tmp_path: Path) -> None:
    shop.start("relay", *ALL_GROUPS)
    key = f"key-{uuid4().hex}"
    order_id = shop.call("POST", "/api/v1/orders", json=ORDER, headers={"Idempotency-Key": key}).json()["id"]
    shop.await_count("SELECT count(*) FROM orders WHERE status = 'PAID'", 1)
    shop.settle()
    by_key, by_order = shop.operations.follow(key), shop.operations.follow(order_id)
    assert by_key["moments"] == by_order["moments"]
    (created,) = [event for event in by_key["events"] if event["type"] == "OrderCreated"]
    steps = [moment["step"] for moment in by_key["moments"] if moment["event_id"] in ("", created["id"])]
    assert steps[:4] == ["answered", "committed", "cleared", "on_the_wire"]
    assert {"OrderCreated", "ReserveInventory", "PaymentCompleted", "OrderPaid"} <= {
        e["type"] for e in by_key["events"]
    }
    assert any(m["step"] == "applied" and m["what"].startswith("inventory-service") for m in by_key["moments"])
    assert shop.operations.follow("nobody")["moments"] == []

    shop.await_count(
        "SELECT count(*) FROM inbox WHERE event_id = CAST(:id AS uuid)", _takers(created), id=created["id"]
    )
    if shop.settings.broker != "memory":
        code, told = cli(shop, "trace", key)
        assert (code, created["id"] in told, "on_the_wire" in told) == (0, True, True)
        assert cli(shop, "trace", "nobody")[0] == 2
        report = tmp_path / "closing.md"
        assert cli(shop, "audit", "--out", str(report))[0] == 0
        assert report.read_text().startswith("# Closing report of the audit\n\n**Nothing is missing.**")
        shop.commit_likes(1, with_pending=False)
        assert cli(shop, "audit", "--json")[0] == 1
        assert cli(shop, "dlq", "list") == (0, "no dead letter\n")
        assert cli(shop, "dlq", "list", "--parked") == (0, "no key is parked\n")
        assert cli(shop, "dlq", "show", "1")[0] == 2
        nothing = "0 redone, 0 closed before, 0 failed again, 0 malformed, 0 of unknown groups, 0 open\n"
        assert cli(shop, "dlq", "retry") == (0, nothing)
        assert cli(shop, "replay", "product-metrics", "--since", "2020-01-01T00:00:00Z")[1].startswith("1 applied")
        assert cli(shop, "replay", "inventory-service", "--from-beginning")[0] == 2
    else:
        with pytest.raises(SettingError, match="BROKER=memory lives in one process"):
            cli(shop, "trace", key)


def _takers(event: dict[str, Any]) -> int:
    return sum(event["type"] in group.takes for group in GROUPS.values())


def cli(shop: LiveShop, *words: str) -> tuple[int, str]:
    """Exit code, and what was printed for people."""
    done = CliRunner().invoke(application([]), list(words), env=wiring.as_environment(shop.settings))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout
