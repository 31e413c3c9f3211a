"""How often, and after how long, is a message tried again? And which errors are not the message's fault at all?"""

from dataclasses import dataclass
from random import Random

from core.storage.database import has_state, is_away


@dataclass(frozen=True)
class RetryPolicy:
    """Tries of one message, the first included; then it becomes a dead letter."""

    tries: int | None = 5
    """None: for ever."""
    first_delay_s: float = 0.2
    factor: float = 2.0
    max_delay_s: float = 10.0
    jitter: bool = True
    """Full jitter: uniform from 0 to the delay, so that many failed messages do not come back at one instant
    (Brooker, 'Exponential Backoff And Jitter', AWS Architecture Blog, 2015)."""

    def is_last(self, tries: int) -> bool:
        return self.tries is not None and tries >= self.tries

    def delay_s(self, tries: int, random: Random) -> float:
        """Seconds to wait after the `tries`-th try failed, counted from 1."""
        # The exponent is bounded: a message retried for ever would overflow a float after 1,024 tries.
        delay_s = min(self.max_delay_s, self.first_delay_s * self.factor ** min(tries - 1, 64))
        return random.uniform(0.0, delay_s) if self.jitter else delay_s


PRESETS = {
    "default": RetryPolicy(),
    "article-s2": RetryPolicy(tries=None, first_delay_s=1.0, factor=1.0, jitter=False),
    "article-s3-kafka": RetryPolicy(tries=3, first_delay_s=1.0, factor=1.0, jitter=False),
    "article-s3-rabbitmq": RetryPolicy(tries=3, first_delay_s=1.0, factor=2.0, max_delay_s=10.0, jitter=False),
    "article-s4": RetryPolicy(tries=3, first_delay_s=1.0, factor=1.0, jitter=False),
}

_WRONG_SCHEMA = ("42P01", "42703", "42501", "3F000")
"""Undefined table, column or schema, no privilege: a deployment's fault, and it would fail every message."""


def is_transient(error: BaseException) -> bool:
    """The database, not a message, made this fail: repeat the whole batch, count no attempt."""
    return is_away(error) or has_state(error, _WRONG_SCHEMA)
