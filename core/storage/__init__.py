"""SQLAlchemy tables, the transaction, the event store."""
