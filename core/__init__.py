"""The shop, complete, with any broker. Start at `journey.py`: the steps a message takes."""
