"""ack=after (S0.33): work, commit, then ack, and no record of what was handled: at least once.

Predicted: crash at `applied` (P7) doubles the effects of that batch, so does every other redelivery; nothing is
lost. Nothing under calm.
"""

from ablations.inbox.off import InboxOff


class AckAfter(InboxOff):
    pass
