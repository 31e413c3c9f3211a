"""The systems under test of runs whose load enters below the API (`load.level`), each with fewer parts than the shop.

At outbox level a driver writes events and relay and consumers do the rest; at broker level a driver publishes, a
receiver acks, and there is no database. Not here: what those processes do (`driving`), the whole shop (`lab`).
"""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from core.messaging.errors import BrokerError
from history.records import RECEIVER
from testbed.driving import driven_topology
from testbed.lab import RunLab
from testbed.role_process import RoleProcess


class OutboxLab(RunLab):
    """Driver, relay, consumers, database, broker."""

    DRIVER_EXITS = (None, 0)
    LEVEL = "outbox"

    def start_driver(self, plan: Mapping[str, Any]) -> None:
        self._start_driver([sys.executable, "-m", "testbed.driving", self.LEVEL], plan, self._role_environment())

    def _planned_roles(self) -> list[RoleProcess]:
        return self._relays_and_consumers()

    def _wait_for_api(self) -> None:
        """There is none."""


class BrokerLab(OutboxLab):
    """Driver, broker, receivers."""

    LEVEL = "broker"
    CONSUMES = RECEIVER

    def start(self) -> None:
        self._connect(driven_topology(self._settings))
        self._start_roles(self._planned_roles())

    def backlog(self) -> int | None:
        try:
            return sum(lag.lag_messages for lag in self.lag(RECEIVER).values())
        except BrokerError:
            return None

    def export_ledger(self, folder: Path) -> None:
        """Nothing but the history tells of it."""

    def describe(self) -> dict[str, Any]:
        """No strategy of the shop has a part in it."""
        return {**super().describe(), "strategies": {}, "seams": {}}

    @property
    def groups(self) -> Collection[str]:
        return (RECEIVER,)

    def parts(self) -> dict[str, list[int]]:
        return {part: pids for part, pids in super().parts().items() if part != "database"}

    def _planned_roles(self) -> list[RoleProcess]:
        receivers = range(1, self._scenario.roles.consumers + 1)
        return [self._process(f"{RECEIVER}-{n}", "testbed.driving", RECEIVER) for n in receivers]


LABS: Mapping[str, type[RunLab]] = {"api": RunLab, "outbox": OutboxLab, "broker": BrokerLab}
"""By `load.level`."""
