"""One relay as a process of its own, to be killed or paused; what it needs comes as JSON in argv."""

import json
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import MetaData

from core.journey import NoProbe, Step
from core.outbox.relay import Relay, RelayOptions
from core.storage.database import create_database_engine
from core.storage.tables import messaging_tables
from faults.crash import CrashProbe
from tests.contract.profiles import connect
from tests.storage.outbox_rows import topology_of


def main() -> None:
    given = json.loads(sys.argv[1])
    probe = CrashProbe(NoProbe(), Step(given["crash_at"])) if given["crash_at"] else NoProbe()
    broker = connect(given["profile"], given["address"], topology_of(given["prefix"]))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    options = RelayOptions(
        batch_messages=given["batch_messages"], poll_s=0.02, lease_s=given["lease_s"], publish_timeout_s=10.0
    )
    publisher = broker.publisher()
    engine = create_database_engine(given["database"])
    Relay(engine, messaging_tables(MetaData()), publisher, options, probe, given["owner"]).run(stop)
    publisher.close()


if __name__ == "__main__":
    main()
