"""relay.claim=skip_locked: each relay locks other rows and sends at the same time (row S0.31).

Predicted: quick with several relays, and out of order: the rows of one key are spread over relays that do not wait for
one another. One relay alone keeps the order.
"""

from ablations.relay.claim_none import NoClaim


class SkipLocked(NoClaim):
    locking = "FOR UPDATE OF p SKIP LOCKED"
