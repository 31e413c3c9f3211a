"""Write the database's truth at the end of a run into `ledger/*.ndjson` (docs/history.md lists the fields)."""

from collections.abc import Mapping
from pathlib import Path

import orjson
from sqlalchemy import Engine

from core.effects.table import Group

_QUERIES = {
    "requests": "SELECT idempotency_key, resource_id AS order_id FROM request",
    "events": """SELECT event_id, topic, event_type, aggregate_type, aggregate_id, sequence, correlation_id, occurred_at
                 FROM event ORDER BY id""",
    "pending": """SELECT e.event_id, p.attempts, p.last_error,
                         EXISTS (SELECT FROM pending q WHERE q.key = p.key AND q.parked_at IS NOT NULL) AS parked
                  FROM pending p JOIN event e USING (id) ORDER BY p.id""",
    "inbox": 'SELECT consumer_group AS "group", event_id, outcome, reason FROM inbox ORDER BY applied_no',
    "effects": 'SELECT applied_no, consumer_group AS "group", event_id, effect FROM effect ORDER BY applied_no',
    "failed_events": """SELECT topic, consumer_group AS "group", event_id, event_type, reason,
                               redone_at IS NOT NULL AS redone FROM failed_event ORDER BY id""",
    "products": "SELECT id AS product_id, initial_stock, stock FROM product ORDER BY id",
    "stock_reservations": """SELECT r.order_id, i.product_id, i.quantity, r.status
                             FROM stock_reservation r JOIN stock_reservation_item i USING (order_id)""",
    "orders": "SELECT id AS order_id, status, total_amount FROM orders",
    "order_lines": "SELECT order_id, product_id, quantity FROM order_items",
    "payments": "SELECT transaction_key, order_id, status, amount FROM payment",
    "deliveries": """SELECT 'mails' AS kind, idempotency_key AS key, event_id FROM email_sent_record
                     UNION ALL SELECT CASE channel WHEN 'SMS' THEN 'sms' ELSE 'pushes' END, idempotency_key, event_id
                     FROM notification
                     UNION ALL SELECT 'records', idempotency_key, event_id FROM platform_record""",
    "product_metrics": "SELECT product_id, views FROM product_metrics ORDER BY product_id",
    "sagas": "SELECT order_id, step, status, failure FROM saga_state",
}


WRITTEN_BY_DRIVER = (
    "SELECT event_id AS idempotency_key, NULL AS order_id FROM event WHERE correlation_id = event_id::text"
)
"""In place of `requests` where no API answered: the driver's own writes, each its own request."""


def export_ledger(engine: Engine, folder: Path, groups: Mapping[str, Group], by_driver: bool = False) -> None:
    """One repeatable-read snapshot of every table, streamed: ten million rows need no memory."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # The engine's limit is for the shop: a table of ten million rows takes longer.
        cursor.execute("SET LOCAL statement_timeout = 0")
        queries = _QUERIES | ({"requests": WRITTEN_BY_DRIVER} if by_driver else {})
        for name, query in queries.items():
            with (folder / f"{name}.ndjson").open("wb") as file, cursor.copy(_as_lines(query)) as rows:
                # COPY's text form doubles backslashes; JSON text holds no raw control characters to escape besides.
                for block in rows:
                    file.write(bytes(block).replace(b"\\\\", b"\\"))
        connection.rollback()
    finally:
        connection.close()
    with (folder / "subscriptions.ndjson").open("wb") as file:
        for group, spec in sorted(groups.items()):
            for event_type in sorted(spec.takes):
                file.write(orjson.dumps({"group": group, "event_type": event_type}) + b"\n")


def _as_lines(query: str) -> str:
    return f"COPY (SELECT row_to_json(line) FROM ({query}) AS line) TO STDOUT"
