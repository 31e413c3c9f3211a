"""How fast is this machine at this moment? A fixed piece of work before each run, so that runs on a machine that was
busy with something else are told from the others. Not a benchmark of the machine: only compared with itself.
"""

import hashlib
import time
from collections.abc import Callable
from statistics import median

ROUNDS = 9
ROUND_BYTES = 8_000_000


def work_per_s(clock: Callable[[], float] = time.perf_counter) -> float:
    """Rounds of hashing 8 MB that one core does a second, the median of nine; takes about a tenth of a second."""
    block = bytes(ROUND_BYTES)
    took_s = []
    for _ in range(ROUNDS):
        began_s = clock()
        hashlib.sha256(block).digest()
        took_s.append(clock() - began_s)
    return round(1 / median(took_s), 1)
