"""The port: what a broker must promise to carry the shop's events. Adapters live in `brokers/`."""
