"""Seam `flow`: what happens between an order and its payment. Value -> the consumer groups.

What the request itself does differs in `sync` alone.
"""

from collections.abc import Mapping

from ablations.flow.choreography_parallel import GROUPS as PARALLEL
from core.effects.table import GROUPS, Group

FLOWS: Mapping[str, Mapping[str, Group]] = {"saga": GROUPS, "choreography_parallel": PARALLEL, "sync": GROUPS}
