"""relay.claim=none: every relay reads the same pending rows (row S0.27).

Predicted: wire duplicates as soon as two relays run; none with one. Crash point: none needed, two relays suffice.
"""

from sqlalchemy import Engine


class NoClaim:
    locking = ""

    def enter(self, engine: Engine, owner: str) -> bool:
        return True

    def leave(self, engine: Engine, owner: str) -> None:
        return None
