"""What breaks the system on purpose, and how it is healed. Start at `catalogue.py`."""
