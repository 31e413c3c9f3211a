"""Create what the tables need beyond columns: lease rows, the view for people, the schema's version."""

from sqlalchemy import Connection, Engine, MetaData

from core.storage.tables import BUCKETS, MessagingTables

SCHEMA_VERSION = 1


class SchemaMismatch(Exception):
    def __init__(self, found: int) -> None:
        super().__init__(
            f"the database holds version {found} of the messaging tables, this code needs {SCHEMA_VERSION}. "
            "Use a database of its own or migrate it."
        )


def create_schema(engine: Engine, metadata: MetaData, tables: MessagingTables) -> None:
    """Create all tables of `metadata`, lease rows and the view; idempotent, safe when several start at once.

    Raises SchemaMismatch when the database was made by another version of this code.
    """
    with engine.begin() as connection:
        # 'outb' in ASCII: two processes creating the same tables at once would fail, one after the other does not.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1870030946)")
        if tables.event.schema:
            connection.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{tables.event.schema}"')
        metadata.create_all(connection)
        _check_version(connection, tables)
        connection.exec_driver_sql(
            f"INSERT INTO {tables.bucket_lease.fullname} (bucket) SELECT generate_series(0, {BUCKETS - 1}) "
            "ON CONFLICT DO NOTHING"
        )
        connection.exec_driver_sql(outbox_view(tables))


def _check_version(connection: Connection, tables: MessagingTables) -> None:
    name = f"{tables.event.schema}.messaging_schema" if tables.event.schema else "messaging_schema"
    connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {name} (version integer NOT NULL)")
    found = connection.exec_driver_sql(f"SELECT version FROM {name}").scalar()
    if found is None:
        connection.exec_driver_sql(f"INSERT INTO {name} VALUES ({SCHEMA_VERSION})")
    elif found != SCHEMA_VERSION:
        raise SchemaMismatch(found)


def outbox_view(tables: MessagingTables) -> str:
    """The outbox in the words people know: PENDING, PROCESSED (cleared) or FAILED (its key is parked on this row)."""
    view = f"{tables.event.schema}.outbox_events" if tables.event.schema else "outbox_events"
    return f"""
    CREATE OR REPLACE VIEW {view} AS
    SELECT e.id,
           e.aggregate_type,
           e.aggregate_id,
           e.event_type,
           e.payload,
           CASE WHEN p.parked_at IS NOT NULL THEN 'FAILED'
                WHEN p.id IS NOT NULL THEN 'PENDING'
                ELSE 'PROCESSED' END::varchar(20) AS status,
           e.occurred_at AS created_at,
           c.cleared_at AS processed_at,
           coalesce(p.attempts, c.attempts, 0) AS retry_count
    FROM {tables.event.fullname} e
    LEFT JOIN {tables.pending.fullname} p ON p.id = e.id
    LEFT JOIN (
        SELECT left_the_outbox.id, cleared_at, left_the_outbox.attempts
        FROM {tables.cleared.fullname} batch, unnest(batch.event_ids, batch.attempts) AS left_the_outbox (id, attempts)
    ) c ON c.id = e.id AND p.id IS NULL
    """
