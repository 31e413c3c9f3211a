"""Whom the audit calls a loser of events: nobody whose broker does not tell what consumers hold unacked."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from core.messaging.ports import Lag
from core.outbox.storage import Depth
from core.queries.ledger import GroupAccount, Letters
from testbed import audit
from testbed.audit import Standing

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Tells:
    """An admin that gives one lag after the other, and then the last for ever."""

    def __init__(self, *lags: Lag) -> None:
        self._lags = list(lags)

    def lag(self, group: str) -> Mapping[str, Lag]:
        if group == audit.DEAD_LETTER_GROUP:
            return {"orders.DLQ": Lag(0, 0.0)}
        return {"orders": self._lags.pop(0) if len(self._lags) > 1 else self._lags[0]}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept; two events are owed by the database's account, for ever."""
    slept: list[float] = []
    engine = SimpleNamespace(connect=lambda: _Nothing())
    monkeypatch.setattr(audit, "time", SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept)))
    monkeypatch.setattr(audit, "unsettled_ids", lambda *_: ["e-1", "e-2"])
    monkeypatch.setattr(audit, "account_of", lambda *_: GroupAccount(2, 0, 0, 0, 0, 2))
    monkeypatch.setattr(_Database, "engine", engine, raising=False)
    return slept


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Database:
    messaging = None


def standing(*lags: Lag) -> Standing:
    database: Any = _Database()
    admin: Any = Tells(*lags)
    return audit._standing(database, admin, "billing", ["OrderCreated"], BEGINNING)


def test_what_nobody_holds_is_lost(clock: list[float]) -> None:
    found = standing(Lag(0, 0.0, 0.0))
    assert (found.lost, found.untold) == (["e-1", "e-2"], [])
    assert audit.SETTLES_S <= sum(clock) < audit.SETTLES_S + 1


def test_where_the_broker_never_tells_what_is_held_nothing_is_lost_and_all_is_untold(clock: list[float]) -> None:
    found = standing(Lag(0, 0.0, None))
    assert (found.lost, found.untold) == ([], ["e-1", "e-2"])


def test_where_the_broker_tells_late_nothing_is_lost_before_it_could_have_told(clock: list[float]) -> None:
    held = standing(*[Lag(0, 0.0, 8.0)] * 30, Lag(2, 0.0, 8.0))
    assert (held.lost, held.untold, held.lag_messages) == ([], [], 2), "it was told after 6 s"
    clock.clear()
    assert standing(Lag(0, 0.0, 8.0)).lost == ["e-1", "e-2"]
    assert 8.0 <= sum(clock) < 9.0


def test_what_is_untold_is_neither_settled_nor_broken(clock: list[float]) -> None:
    whole: Any = SimpleNamespace(is_whole=True, waiting_events=0)
    groups = {"billing": standing(Lag(0, 0.0, None))}
    found = audit.Audit("any", None, BEGINNING, 1.0, whole, groups, Depth(0, 0.0, 0), Letters(0, 0, 0))
    assert (found.is_broken, found.is_settled, found.exit_code) == (False, False, 2)
