"""A member of a group that is killed: it writes what it was handed, one line a batch, then acks it.

The line is written by one write(2) before the ack, so what was acked is always on record. After `batches` it waits for
its end. Argument: one JSON object {profile, address, prefix, partitions, prefetch_messages, take_messages, batches,
file}.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from typing import Any

from tests.contract.profiles import TOPOLOGY, connect


def main(told: dict[str, Any]) -> None:
    topology = replace(TOPOLOGY, prefix=told["prefix"], partitions=told["partitions"])
    subscriber = connect(told["profile"], told["address"], topology).subscriber("billing", told["prefetch_messages"])
    record = os.open(told["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    batches = 0
    while batches < told["batches"]:
        # Far fewer than the prefetch: the rest is fetched, unacked and lost with the process.
        batch = subscriber.receive(told["take_messages"], 1.0)
        if batch:
            seen = [[d.envelope.key, d.envelope.sequence] for d in batch if d.envelope]
            os.write(record, (json.dumps(seen) + "\n").encode())
            subscriber.ack(batch)
            batches += 1
    signal.pause()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
