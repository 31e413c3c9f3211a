"""Apply each message once: claims, effects and next events in one transaction, then the ack."""
