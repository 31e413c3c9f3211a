"""A real consumer process, SIGKILLed at each step on each real broker: the core repeats nothing and loses nothing,
and each wrong consumer shows its anomaly at its crash point (P5 to P9), and none under calm.
"""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from sqlalchemy import MetaData, create_engine, text

from core.messaging.envelope import Envelope
from core.messaging.topology import DEAD_LETTER_GROUP
from core.storage.tables import messaging_tables
from tests.chaos.worker_process import BATCH_MESSAGES, GROUP, POISON
from tests.chaos.worker_world import KEYS, MESSAGES, Chaos, by_key, chaos, order
from tests.waiting import until

__all__ = ["chaos"]


@pytest.mark.row("S4.16")
@pytest.mark.parametrize("step", ["delivered", "claimed", "effected", "applied", "acked"])
def test_the_core_killed_at_any_step_applies_each_event_once_and_in_order(chaos: Chaos, step: str) -> None:
    events = [order(number) for number in range(MESSAGES)]
    chaos.publish(events)
    chaos.kill_at(step, {})
    assert by_key(chaos.drain({}), events) == by_key([event.id for event in events], events)


IN_ONE_PROCESS = """
import sys
from brokers.memory import MemoryConfig, connect
from core.inbox.worker import Worker, WorkerOptions
from core.journey import NoProbe, Step
from core.storage.database import create_database_engine
from core.storage.tables import messaging_tables
from faults.crash import CrashProbe
from sqlalchemy import MetaData
from tests.chaos.worker_world import order
from tests.chaos.worker_process import GROUP, count_it
from tests.contract.profiles import TOPOLOGY

database, published, crash_at = sys.argv[1:]
broker = connect(MemoryConfig(), TOPOLOGY)
broker.admin().declare()
assert all(o.is_confirmed for o in broker.publisher().publish([order(n) for n in range(int(published))], 5.0))
worker = Worker(
    create_database_engine(database), messaging_tables(MetaData()), broker.subscriber(GROUP), GROUP, count_it,
    WorkerOptions(receive_timeout_s=0.1), CrashProbe(NoProbe(), Step(crash_at)) if crash_at else NoProbe(),
)
while worker.step():
    pass
"""


@pytest.mark.row("S4.16", on="memory")
def test_what_is_in_flight_inside_a_process_dies_with_it(database: str) -> None:
    engine = create_engine(database)
    metadata = MetaData()
    messaging_tables(metadata)
    metadata.create_all(engine)

    def run(published: int, crash_at: str = "") -> int:
        command = [sys.executable, "-c", IN_ONE_PROCESS, database, str(published), crash_at]
        return subprocess.run(command, timeout=60).returncode

    def applied() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM effect")).scalar_one())

    assert (run(100), applied()) == (0, 100)
    assert (run(100, "claimed"), applied()) == (-signal.SIGKILL, 100)
    assert (run(0), applied()) == (0, 100), "the hundred that were confirmed came again, out of a dead process"
    engine.dispose()


NONE, ONE, A_BATCH = (0, 0), (1, 1), (1, BATCH_MESSAGES)
"""How many, at least and at most."""
WRONG = {
    "P5-check_then_act": ({"inbox": "check_then_act"}, "effected", 1, NONE, ONE),
    "P6-record_first": ({"inbox": "record_first"}, "claimed", 1, ONE, NONE),
    "P7-off": ({"inbox": "off"}, "applied", 1, NONE, A_BATCH),
    "P8-ack_before": ({"ack": "before", "inbox": "off"}, "acked", 1, A_BATCH, NONE),
    "P9-upsert": ({"inbox": "upsert"}, "effected", 10, NONE, A_BATCH),
}
"""Seams, crash point and which time it is reached, events lost, effects doubled."""


@pytest.mark.parametrize(("seams", "step", "times", "lost", "doubled"), WRONG.values(), ids=WRONG)
@pytest.mark.row("S0.28", "S0.29", "S0.33", "S1.21")
def test_a_wrong_consumer_shows_its_anomaly_at_its_crash_point(
    chaos: Chaos, seams: dict[str, str], step: str, times: int, lost: tuple[int, int], doubled: tuple[int, int]
) -> None:
    events = [order(number) for number in range(MESSAGES)]
    chaos.publish(events)
    chaos.kill_at(step, seams, times)
    counts = Counter(chaos.drain(seams))
    assert lost[0] <= len({event.id for event in events} - counts.keys()) <= lost[1]
    assert doubled[0] <= counts.total() - len(counts) <= doubled[1]


@pytest.mark.parametrize("seams", [seams for seams, *_ in WRONG.values()], ids=WRONG)
def test_a_wrong_consumer_shows_nothing_under_calm(chaos: Chaos, seams: dict[str, str]) -> None:
    events = [order(number) for number in range(MESSAGES)]
    chaos.publish(events)
    assert by_key(chaos.drain(seams), events) == by_key([event.id for event in events], events)


@pytest.mark.row("S1.26")
def test_a_batch_of_3000_that_its_consumer_died_in_comes_again_and_is_applied_once(chaos: Chaos) -> None:
    events = [order(number) for number in range(3_000)]
    chaos.publish(events)
    with chaos.engine.begin() as connection:
        connection.execute(text("CREATE SEQUENCE handled"))
    chaos.set_session(3.0)
    whole = {"batch_messages": 3_000}
    assert chaos.start({}, **whole, crash_at_record=1_500).wait(60) == -signal.SIGKILL
    chaos.set_session(10.0)
    assert chaos.ids("SELECT last_value FROM handled") == ["1500"]
    applied = chaos.drain({}, **whole, crash_at_record=1_000_000)
    assert by_key(applied, events) == by_key([event.id for event in events], events)
    assert 3_000 < int(chaos.ids("SELECT last_value FROM handled")[0]) - KEYS <= 4_500


@pytest.mark.row("S2.15")
def test_one_poison_message_becomes_a_letter_and_the_rest_is_applied_in_order(chaos: Chaos) -> None:
    """Where its error is rethrown it comes again for ever: its key stands still, until the default takes over."""
    events = [order(number, POISON if number == 133 else b"{}") for number in range(MESSAGES)]
    poison = events[133]
    chaos.publish(events)
    _stands_still_for_ever(chaos, events, poison)
    good = [event.id for event in events if event is not poison]
    assert by_key(chaos.drain({}), events) == by_key(good, events)
    # Letters are in lanes of their own: the reader would see a second one only after the first.
    subscriber = chaos.broker.subscriber(DEAD_LETTER_GROUP)
    letters = [letter for _ in range(10) for letter in subscriber.receive(100, 1.0)]
    subscriber.close()
    assert [letter.envelope.id for letter in letters if letter.envelope] == [poison.id]
    assert len(letters) == 1
    assert letters[0].failure is not None
    assert (letters[0].failed_group, letters[0].failure.attempts) == (GROUP, 3)
    assert letters[0].failure.reason == "ValueError: this message can never be applied"


def _stands_still_for_ever(chaos: Chaos, events: Sequence[Envelope], poison: Envelope) -> None:
    waiting = [event.id for event in events[events.index(poison) :] if event.key == poison.key]
    assert len(waiting) == 4
    process = chaos.start({"on_error": "forever"})

    def refused() -> int:
        return int(chaos.ids("SELECT last_value FROM refused")[0])

    until(lambda: len(set(chaos.ids("SELECT event_id FROM effect"))) == len(events) - len(waiting))
    before = refused()
    # Each time in its batch, under a savepoint and alone: twice more at least.
    until(lambda: refused() > before + 6)
    assert set(chaos.ids("SELECT event_id FROM effect")).isdisjoint(waiting)
    until(lambda: chaos.admin.lag(GROUP)["orders"].lag_messages >= len(waiting))
    process.terminate()
    assert process.wait(30) == 0
