"""When is a failed message tried again, and which errors are nobody's attempt?"""

from random import Random

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.inbox.retries import PRESETS, RetryPolicy, is_transient


def delays_s(policy: RetryPolicy, count: int) -> list[float]:
    return [policy.delay_s(tries, Random(1)) for tries in range(1, count + 1)]


def test_a_delay_doubles_up_to_its_limit() -> None:
    policy = RetryPolicy(tries=None, first_delay_s=0.5, factor=2.0, max_delay_s=3.0, jitter=False)
    assert delays_s(policy, 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_message_tried_for_ever_keeps_the_longest_delay() -> None:
    assert RetryPolicy(tries=None, jitter=False).delay_s(100_000, Random(1)) == 10.0


def test_jitter_spreads_a_delay_from_nothing_to_all_of_it() -> None:
    random = Random(7)
    drawn = [RetryPolicy(first_delay_s=4.0).delay_s(1, random) for _ in range(1_000)]
    assert 0.0 <= min(drawn) < 0.1
    assert 3.9 < max(drawn) <= 4.0
    assert 1.8 < sum(drawn) / len(drawn) < 2.2


@pytest.mark.parametrize(
    ("tries", "answers"),
    [(1, [True, True, True]), (3, [False, False, True]), (None, [False, False, False])],
)
def test_the_first_try_counts(tries: int | None, answers: list[bool]) -> None:
    assert [RetryPolicy(tries=tries).is_last(number) for number in (1, 2, 3)] == answers


@pytest.mark.parametrize(
    ("preset", "tries", "delays"),
    [
        ("article-s2", None, [1.0, 1.0, 1.0, 1.0]),
        ("article-s3-kafka", 3, [1.0, 1.0]),
        ("article-s3-rabbitmq", 3, [1.0, 2.0]),
        ("article-s4", 3, [1.0, 1.0]),
    ],
)
def test_a_preset_waits_as_its_article_says(preset: str, tries: int | None, delays: list[float]) -> None:
    policy = PRESETS[preset]
    assert policy.tries == tries
    assert delays_s(policy, len(delays)) == delays


def test_the_default_tries_five_times_within_two_hundred_milliseconds_to_ten_seconds() -> None:
    assert PRESETS["default"] == RetryPolicy(5, 0.2, 2.0, 10.0, True)


def wrapped(cause: BaseException) -> DBAPIError:
    return DBAPIError("SELECT 1", None, cause)


@pytest.mark.parametrize(
    "cause",
    [
        errors.DeadlockDetected(),
        errors.SerializationFailure(),
        errors.ConnectionFailure(),
        errors.AdminShutdown(),
        errors.CrashShutdown(),
        errors.CannotConnectNow(),
        errors.QueryCanceled(),
        errors.LockNotAvailable(),
        errors.IdleInTransactionSessionTimeout(),
        errors.TooManyConnections(),
        errors.DiskFull(),
        errors.IoError(),
        errors.ReadOnlySqlTransaction(),
        errors.UndefinedTable(),
        errors.UndefinedColumn(),
        errors.InsufficientPrivilege(),
        errors.InvalidSchemaName(),
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("the connection is closed"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_the_database_did_is_no_attempt_of_a_message(cause: psycopg.Error) -> None:
    assert is_transient(cause)
    assert is_transient(wrapped(cause))


@pytest.mark.parametrize(
    "cause",
    [
        errors.UniqueViolation(),
        errors.CheckViolation(),
        errors.NotNullViolation(),
        errors.ForeignKeyViolation(),
        errors.StringDataRightTruncation(),
        errors.NumericValueOutOfRange(),
        errors.InvalidTextRepresentation(),
        errors.DivisionByZero(),
        errors.RaiseException(),
        errors.SyntaxError(),
        psycopg.DataError("cannot be adapted"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_a_message_did_is_an_attempt(cause: psycopg.Error) -> None:
    assert not is_transient(cause)
    assert not is_transient(wrapped(cause))


def test_a_full_pool_is_no_attempt_and_any_other_error_is_one() -> None:
    assert is_transient(PoolTimeout())
    assert not is_transient(ValueError("no price"))
    assert not is_transient(TimeoutError("gateway"))
