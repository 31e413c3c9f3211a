"""A cache of each product's metrics beside their table: what the row held, in which version, and when it was read.

An entry is a copy, never a sum made here: a repeat writes the same again, and a read that comes late, with an older
version, writes nothing. Whoever reads takes no entry older than a limit, counted from before its row was read: however
a write was lost or delayed, an answer is behind the table by no more. Who writes after each commit: `effects`.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, DateTime, Engine, Executable, Row, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.exc import SQLAlchemyError

from core.storage.shop import ShopTables

log = logging.getLogger(__name__)

COUNTS = ("likes", "views", "sales")


class MetricsCache:
    def __init__(self, engine: Engine, shop: ShopTables, max_age_s: float) -> None:
        self.engine = engine
        self.shop = shop
        entry, metrics = shop.metrics_cache, shop.product_metrics
        oldest = func.clock_timestamp(type_=DateTime(timezone=True)) - timedelta(seconds=max_age_s)
        self._young = select(*(entry.c[name] for name in COUNTS)).where(
            entry.c.product_id == bindparam("product"), entry.c.read_at > oldest
        )
        copied = ("product_id", *COUNTS, "version")
        products = any_(bindparam("products", type_=ARRAY(BigInteger)))
        # now() is before the statement's snapshot. In key order, so that two of these do not deadlock.
        rows = select(*(metrics.c[name] for name in copied), func.now()).where(metrics.c.product_id == products)
        statement = insert(entry).from_select([*copied, "read_at"], rows.order_by(metrics.c.product_id))
        self.copy = statement.on_conflict_do_update(
            index_elements=[entry.c.product_id],
            set_={name: statement.excluded[name] for name in (*COUNTS, "version", "read_at")},
            where=entry.c.version <= statement.excluded.version,
        )

    def find(self, product_id: int) -> Row[Any] | None:
        """Its `COUNTS`; None if there is no entry, or none that is young enough."""
        with self._one_statement() as connection:
            return connection.execute(self._young, {"product": product_id}).one_or_none()

    def refresh(self, product_ids: Collection[int]) -> None:
        """Copy their rows as they are now, by one statement; what was never counted has no row and gets no entry."""
        if product_ids:
            self.write(self.copy, {"products": sorted(product_ids)})

    def write(self, statement: Executable, given: Mapping[str, object] | Sequence[Mapping[str, object]]) -> None:
        """Never raises for the database: entries that were not written grow too old, which is all that is promised."""
        try:
            with self._one_statement() as connection:
                connection.execute(statement, given)
        except SQLAlchemyError as error:
            log.warning("cache of product metrics was not written", extra={"error": str(error)})

    def _one_statement(self) -> Connection:
        """Committed by itself, which spares BEGIN and COMMIT their round trips."""
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
