"""What is lost, invented, repeated or late: pure judges of a run's folder. Definitions: `docs/measuring.md`."""
