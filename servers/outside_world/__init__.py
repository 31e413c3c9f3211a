"""The world outside the shop as one small service: payment gateway, e-mail, push, SMS, data platform.

It records every call before it answers, and breaks as it is told: slow, failing, silent after it did the work, deaf to
idempotency keys. Its record is its own truth and becomes part of a run's ledger.
"""
