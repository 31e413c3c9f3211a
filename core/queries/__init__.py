"""What a request may read."""
