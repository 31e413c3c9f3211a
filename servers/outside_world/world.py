"""What each call comes to. Seeded: the n-th call of a key always meets the same fate.

Nothing happened that is not in the record, written before an answer is given.

The state (which keys are known, what was charged) is what the record says: it is read back at a restart.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

from servers.outside_world.behaviour import Behaviour, Behaviours, Kind
from servers.outside_world.record import Call, Record

NOTHING = Decimal("0.00")


class Outcome(NamedTuple):
    """Of the work itself."""

    word: str
    """payments: completed, failed, pending, cancelled; the others: accepted."""
    reason: str | None = None
    amount: Decimal = NOTHING
    """Money moved by this call: charged above zero, refunded below."""


class Answer(NamedTuple):
    status: int
    content: dict[str, Any]
    is_silent: bool
    """The caller must never get it."""


@dataclass
class Payment:
    outcome: Outcome | None = None
    """Of the first charge."""
    charged: Decimal = NOTHING
    is_cancelled: bool = False


class World:
    """Not for several threads: the service's one event loop calls it."""

    def __init__(self, record: Record, behaviours: Behaviours, seed: int = 0) -> None:
        self.record = record
        self.behaviour: Mapping[Kind, Behaviour] = behaviours.over({})
        self._seed = seed
        self._calls: Counter[tuple[str, str]] = Counter()
        self._done: dict[tuple[str, str], Outcome] = {}
        self._payments: dict[str, Payment] = {}
        self._call_no = 0
        for call in record.calls():
            self._apply(call)

    def change(self, behaviours: Behaviours) -> None:
        self.behaviour = behaviours.over(self.behaviour)

    def deliver(self, kind: Kind, key: str, body: dict[str, Any]) -> Answer:
        """A mail, a push, an SMS or a record."""
        behaviour = self.behaviour[kind]
        before = self._done.get((kind, key)) if behaviour.honours_keys else None
        return self._take(kind, behaviour, key, body, before, lambda chance: Outcome("accepted"))

    def charge(self, key: str, amount: Decimal, body: dict[str, Any]) -> Answer:
        """A key that was cancelled before it was charged is refused for ever."""
        behaviour, payment = self.behaviour["payments"], self._payments.get(key, Payment())

        def work(chance: Random) -> Outcome:
            if payment.is_cancelled:
                return Outcome("failed", "cancelled before")
            if chance.random() < behaviour.declined_ratio:
                return Outcome("failed", "card declined")
            if chance.random() < behaviour.pending_ratio:
                return Outcome("pending")
            return Outcome("completed", None, amount)

        before = payment.outcome if behaviour.honours_keys else None
        return self._take("payments", behaviour, key, body, before, work)

    def cancel(self, key: str) -> Answer:
        """Pay back all that was charged under the key; again, or for an unknown key: nothing moves."""
        payment = self._payments.get(key, Payment())
        before = Outcome("cancelled") if payment.is_cancelled and not payment.charged else None
        refund = Outcome("cancelled", None, -payment.charged)
        return self._take("cancels", self.behaviour["payments"], key, {}, before, lambda chance: refund)

    def settle(self, key: str, word: str, amount: Decimal) -> Answer | None:
        """A pending payment is completed or failed, as its gateway would do later; None if it is not pending."""
        payment = self._payments.get(key, Payment())
        if payment.outcome is None or payment.outcome.word != "pending" or payment.is_cancelled:
            return None
        outcome = Outcome(word, None, amount if word == "completed" else NOTHING)
        return self._take("settlements", Behaviour(), key, {}, None, lambda chance: outcome)

    def _take(
        self,
        kind: str,
        behaviour: Behaviour,
        key: str,
        body: dict[str, Any],
        before: Outcome | None,
        work: Callable[[Random], Outcome],
    ) -> Answer:
        """Decide, record, then remember: what is not in the record did not happen."""
        chance = Random(f"{self._seed}/{kind}/{key}/{self._calls[kind, key]}")
        fails = chance.random() < behaviour.failure_ratio
        is_silent = not fails and chance.random() < behaviour.timeout_after_work_ratio
        outcome = Outcome("unavailable", "told to fail") if fails else before or work(chance)
        did_work = not fails and before is None
        call = Call(
            call_no=self._call_no + 1,
            t_ns=time.time_ns(),
            kind=kind,
            key=key,
            outcome=outcome.word,
            reason=outcome.reason,
            did_work=did_work,
            is_repeat=not fails and before is not None,
            is_answered=not is_silent,
            amount=outcome.amount if did_work else NOTHING,
            body=body,
        )
        self.record.append(call)
        self._apply(call)
        content = {"status": outcome.word} | ({"reason": outcome.reason} if outcome.reason else {})
        return Answer(503 if fails else 200, content, is_silent)

    def _apply(self, call: Call) -> None:
        self._call_no = call.call_no
        self._calls[call.kind, call.key] += 1
        if not call.did_work:
            return
        outcome = Outcome(call.outcome, call.reason, call.amount)
        if call.kind not in ("payments", "cancels", "settlements"):
            self._done.setdefault((call.kind, call.key), outcome)
            return
        payment = self._payments.setdefault(call.key, Payment())
        payment.charged += outcome.amount
        if call.kind == "cancels":
            payment.is_cancelled = True
        elif call.kind == "settlements" or payment.outcome is None:
            payment.outcome = outcome
