"""metrics=read_modify_write (S1.32): read a count, add to it here, write the sum back, under the product's lock.

Predicted: lost counts as soon as two processes count facts of one product, for the lock is in one process's memory.
None where each product has one owner, as under lanes by product. No crash point is needed.
"""

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from ablations.metrics.facts import Fact, each_fact
from ablations.metrics.locks import Locks
from core.inbox.handlers import GroupHandler
from core.storage.shop import ShopTables


def read_and_write_back(shop: ShopTables) -> GroupHandler:
    metrics, locks = shop.product_metrics, Locks()

    def count(connection: Connection, fact: Fact) -> str:
        with locks.of(fact.product_id):
            known = select(metrics.c[fact.column]).where(metrics.c.product_id == fact.product_id)
            total = (connection.execute(known).scalar() or 0) + fact.by
            row = insert(metrics).values({"product_id": fact.product_id, fact.column: total})
            written = {fact.column: total, "version": metrics.c.version + 1}
            connection.execute(row.on_conflict_do_update(index_elements=["product_id"], set_=written))
        return fact.done

    return each_fact(count)
