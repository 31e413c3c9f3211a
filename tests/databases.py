"""Databases of the tests."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from servers.lifecycle import Server


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """The URL of a new, empty database, dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"

    def run(statement: str) -> None:
        # A connection each: a test may kill the server in between.
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(statement)

    run(f"CREATE DATABASE {name}")
    yield f"{server.url.rpartition('/')[0]}/{name}"
    run(f"DROP DATABASE {name} WITH (FORCE)")
