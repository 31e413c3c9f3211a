"""How long after its consumer died, or fell silent, does another go on with its messages?

A killed process: RabbitMQ sees its connection close, Kafka waits for the session to end. A process that is only silent
(paused; its machine gone): Kafka waits for the session too, RabbitMQ for two to three heartbeats. The one that takes
over has started before, so that its own start is not part of it.
"""

import signal
import time
from typing import Any

import psutil
import pytest

from tests.chaos.worker_world import MESSAGES, Chaos, by_key, chaos, order
from tests.waiting import until

__all__ = ["chaos"]

HEARTBEAT_S = 1.0
"""Kafka: of the group's members; the session counts from the last one."""
SLACK_S = 10.0
"""From the moment the lanes are free to the first applied message; it was 5 s on a machine that did other work too."""


def take_over_s(chaos: Chaos, batch_messages: int, session_s: float, *, is_killed: bool) -> float:
    """Seconds from the end of the first process, all of whose messages were in its hands, to the first applied by
    another; then all of them are, once and in order. `session_s`: on RabbitMQ the time of three heartbeats."""
    events = [order(number) for number in range(MESSAGES)]
    chaos.publish(events)
    told: dict[str, Any] = {"batch_messages": batch_messages}
    if chaos.told["profile"] != "kafka":
        told["settings"] = {"heartbeat_s": round(session_s / 3)}
    heir = chaos.start({}, **told, is_called=True)
    assert heir.stdout is not None
    assert heir.stdout.readline() == b"ready\n"
    chaos.set_session(session_s)
    end: dict[str, Any] = {"crash_at": "delivered", "crash_after": 1} if is_killed else {"pause_at": "delivered"}
    first = chaos.start({}, **told, **end)
    if is_killed:
        assert first.wait(60) == -signal.SIGKILL
    else:
        until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED, 60)
    ended_s = time.monotonic()
    assert heir.stdin is not None
    heir.stdin.write(b"go\n")
    heir.stdin.flush()
    until(lambda: bool(chaos.ids("SELECT event_id FROM inbox LIMIT 1")), session_s + 60)
    took_s = time.monotonic() - ended_s
    until(lambda: len(chaos.ids("SELECT event_id FROM inbox")) == MESSAGES, session_s + 60)
    heir.terminate()
    assert heir.wait(30) == 0
    applied = chaos.ids("SELECT event_id FROM effect ORDER BY applied_no")
    assert by_key(applied, events) == by_key([event.id for event in events], events)
    print(f"{chaos.told['profile']}: taken over after {took_s:.1f} s, session {session_s:g} s, {is_killed = }")
    return took_s


def check_take_over(chaos: Chaos, batch_messages: int, session_s: float, *, is_killed: bool) -> None:
    took_s = take_over_s(chaos, batch_messages, session_s, is_killed=is_killed)
    if chaos.told["profile"] == "kafka":
        assert session_s - 2 * HEARTBEAT_S < took_s < session_s + SLACK_S
    elif is_killed:
        assert took_s < min(SLACK_S, session_s)
    else:
        assert session_s / 3 < took_s < session_s + SLACK_S


SCALED = [(100, 24.0), (3_000, 24.0)]
OWN = [(100, 30.0), (3_000, 60.0)]
"""Most messages a batch, and the session time-out. None is within the bounds of the broker's default of 10 s."""


@pytest.mark.row("S1.25", "S3.25")
@pytest.mark.parametrize(("batch_messages", "session_s"), SCALED)
def test_another_goes_on_after_the_session_of_a_killed_consumer_on_kafka_and_at_once_on_rabbitmq(
    chaos: Chaos, batch_messages: int, session_s: float
) -> None:
    check_take_over(chaos, batch_messages, session_s, is_killed=True)


@pytest.mark.row("S1.25", "S3.25")
def test_another_goes_on_after_the_session_or_the_heartbeats_of_a_consumer_that_fell_silent(chaos: Chaos) -> None:
    check_take_over(chaos, *SCALED[0], is_killed=False)


@pytest.mark.long
@pytest.mark.row("S1.25", "S3.25")
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "silent"])
@pytest.mark.parametrize(("batch_messages", "session_s"), OWN)
def test_take_over_with_the_time_outs_of_the_articles(
    chaos: Chaos, batch_messages: int, session_s: float, is_killed: bool
) -> None:
    check_take_over(chaos, batch_messages, session_s, is_killed=is_killed)
