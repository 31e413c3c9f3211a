"""Fill the catalogue: the same products for the same size, so that runs on two brokers sell the same things."""

from decimal import Decimal

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from core.storage.shop import ShopTables

PRODUCTS = 100
STOCK_EACH = 1_000_000
SELLERS = 10


def seed_catalogue(engine: Engine, shop: ShopTables, products: int = PRODUCTS, stock_each: int = STOCK_EACH) -> None:
    """Products 1 to `products`, spread over ten sellers; product 1 costs 100.00. Leaves those that exist untouched."""
    rows = [
        {
            "id": number,
            "seller_id": f"seller-{(number - 1) % SELLERS + 1}",
            "name": f"Product {number}",
            "price": Decimal(100 + (number - 1) % 50),
            "initial_stock": stock_each,
            "stock": stock_each,
        }
        for number in range(1, products + 1)
    ]
    with engine.begin() as connection:
        connection.execute(insert(shop.product).on_conflict_do_nothing(), rows)
