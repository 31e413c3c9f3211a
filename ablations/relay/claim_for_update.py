"""relay.claim=for_update: the read locks its rows until the marks commit (row S0.31).

Predicted: no duplicates, but a second relay only waits: two relays are no quicker than one. One that dies after the
send repeats its whole batch (P3).
"""

from ablations.relay.claim_none import NoClaim


class ForUpdate(NoClaim):
    locking = "FOR UPDATE OF p"
