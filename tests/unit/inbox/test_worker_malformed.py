"""A delivery that is no event is given up at once, is told of, and stops nothing; no database is asked about it."""

from collections.abc import Sequence
from random import Random

from sqlalchemy import MetaData, create_engine

from core.inbox.handlers import HandlerResult
from core.inbox.worker import Worker, WorkerOptions
from core.journey import Step
from core.messaging.outcomes import CONFIRMED, Outcome, unknown
from core.messaging.ports import Delivery, Failure
from core.storage.tables import messaging_tables

MALFORMED = Delivery(None, "orders", 0, 7, error="no id", body=b"{", key="order-1")


class Broker:
    """Hands over what it was given, and notes how it was settled."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.letters: list[tuple[Delivery, Failure]] = []
        self.retried: list[tuple[Delivery, float]] = []

    def receive(self, max_messages: int, timeout_s: float) -> Sequence[Delivery]:
        return [MALFORMED]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        raise AssertionError("acked without a letter")

    def retry(self, failed: Delivery, after_s: float, held: Sequence[Delivery] = ()) -> None:
        self.retried.append((failed, after_s))

    def dead_letter(self, delivery: Delivery, failure: Failure, timeout_s: float = 10.0) -> Outcome:
        self.letters.append((delivery, failure))
        return self.outcomes.pop(0)

    def close(self) -> None: ...


class NothingReached:
    def reach(
        self, step: Step, ids: Sequence[str], *, group: str | None = None, outcomes: Sequence[str] | None = None
    ) -> None:
        raise AssertionError(f"{step} was reached by what has no id")


def never(*_: object) -> HandlerResult:
    raise AssertionError("the handler was called")


def worker(broker: Broker, told: list[Delivery]) -> Worker:
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    options = WorkerOptions(after_dead_letter="wait")
    tables = messaging_tables(MetaData())
    return Worker(
        nowhere, tables, broker, "billing", never, options, NothingReached(), on_malformed=told.append, random=Random(1)
    )


def test_a_malformed_delivery_is_told_of_and_becomes_a_letter_at_its_first_try() -> None:
    told: list[Delivery] = []
    broker = Broker(CONFIRMED)
    assert worker(broker, told).step() == 1
    assert told == [MALFORMED]
    [(letter, failure)] = broker.letters
    assert letter is MALFORMED
    assert (failure.reason, failure.attempts) == ("malformed: no id", 1)
    assert broker.retried == []


def test_a_malformed_delivery_whose_letter_was_not_confirmed_comes_again() -> None:
    broker = Broker(unknown("no answer"))
    worker(broker, []).step()
    [(retried, after_s)] = broker.retried
    assert retried is MALFORMED
    assert 0.0 <= after_s <= 0.2
