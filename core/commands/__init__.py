"""What a request may change: each command is one transaction that writes state and events together."""
