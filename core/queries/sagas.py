"""Count the sagas of the shop's orders: where they are, and which of them hang."""

from collections.abc import Mapping

from sqlalchemy import Connection, func, select

from core.storage.shop import ShopTables


def count_sagas(connection: Connection, shop: ShopTables) -> Mapping[tuple[str, str], int]:
    """(step, status) -> how many."""
    saga = shop.saga_state.c
    counted = select(saga.step, saga.status, func.count()).group_by(saga.step, saga.status)
    return {(step, status): count for step, status, count in connection.execute(counted)}


def count_hung_sagas(connection: Connection, shop: ShopTables) -> int:
    """Those whose deadline has passed: their sweeper should have moved them on."""
    saga = shop.saga_state.c
    return connection.execute(select(func.count()).where(saga.deadline_at < func.clock_timestamp())).scalar_one()
