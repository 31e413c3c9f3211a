"""`testbed bench api` at a tiny size: both sides write the same rows, and a refusal is no rate."""

from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from benchmarks.parts import api as bench
from benchmarks.parts.bare_api import bare_app
from core.api.tokens import mint
from tests.system.api_server import TOKENS, api_on, served


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def test_both_sides_write_the_same_rows_and_one_row_tells_the_ratio(database: str) -> None:
    with api_on(database) as ours, served(bare_app(ours.engine)) as bare:
        with ours.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO product (id, seller_id, name, price, initial_stock, stock) "
                    "SELECT n, 'seller-1', 'p', 100, 1, 1 FROM generate_series(11, 100) n"
                )
            )
        token = [("Authorization", f"Bearer {mint(TOKENS, 'c-1')}")]
        (row,) = bench.run(address(ours.url), address(bare), token, rounds=3, requests=25, connections=3)
        assert ours.written() == (200, 200, 200, 200, 0)
        assert (row["name"], row["baseline"], row["rounds"]) == (bench.NAME, bench.BASELINE, 3)
        assert 0 < row["interval"][0] <= row["ratio"] <= row["interval"][1]
        with ours.engine.connect() as connection:
            assert len(set(connection.execute(text("SELECT customer_id FROM orders")).scalars())) == 1
        with pytest.raises(ExceptionGroup) as refused:
            bench.run(address(ours.url), address(bare), [], rounds=3, requests=5, connections=1)
        assert refused.group_contains(bench.Refused, match="401")
