"""The shop's rules as pure functions over frozen data: no SQL, no broker, no clock, no random numbers."""
