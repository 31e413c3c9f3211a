"""Answers already given: the same caller with the same Idempotency-Key gets the same answer, whatever happened since,
for as long as answers are kept.

The answer is stored in the transaction that earned it, so it is there exactly when its effect is. Of two concurrent
requests with one key the database lets one commit; the other finds the key taken, rolls back and reads the answer.
Refusals are not stored: the same request may succeed later.
"""

from datetime import timedelta
from hashlib import sha256
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, Engine, insert, select

from core.commands.context import Context
from core.storage.cleaning import delete_older
from core.storage.shop import ShopTables


class Answer(NamedTuple):
    status: int
    body: bytes
    """JSON text."""
    is_repeat: bool = False


class KeyReused(Exception):
    """The key was used for a different request."""

    def __init__(self, idempotency_key: str) -> None:
        super().__init__(f"Idempotency-Key {idempotency_key!r} was used before for a different request.")


class Ask(NamedTuple):
    """One request that may be repeated."""

    caller: str
    idempotency_key: str
    digest: bytes


def ask_of(caller: str, idempotency_key: str | None, operation: str, body: object) -> Ask | None:
    """`body`: the parsed request, so that white space in it does not make it a different one. None without a key."""
    if idempotency_key is None:
        return None
    content = orjson.dumps([operation, body], option=orjson.OPT_SORT_KEYS, default=str)
    return Ask(caller, idempotency_key, sha256(content).digest())


def find_answer(context: Context, ask: Ask | None) -> Answer | None:
    """The answer given before, in a transaction of its own. Raises KeyReused if it was to another request."""
    if ask is None:
        return None
    request = context.shop.request
    with context.engine.connect() as connection:
        row = connection.execute(
            select(request.c.digest, request.c.status, request.c.answer).where(
                request.c.caller == ask.caller, request.c.idempotency_key == ask.idempotency_key
            )
        ).one_or_none()
    if row is None:
        return None
    if bytes(row.digest) != ask.digest:
        raise KeyReused(ask.idempotency_key)
    return Answer(row.status, row.answer.encode(), is_repeat=True)


def keep_answer(connection: Connection, shop: ShopTables, ask: Ask, answer: Answer, resource_id: str) -> None:
    """In the transaction of the effect. Raises IntegrityError if the key is taken (waits for a rival to end)."""
    connection.execute(
        insert(shop.request),
        {
            "caller": ask.caller,
            "idempotency_key": ask.idempotency_key,
            "digest": ask.digest,
            "status": answer.status,
            "answer": answer.body.decode(),
            "resource_id": resource_id,
        },
    )


def delete_old_answers(engine: Engine, shop: ShopTables, older_than: timedelta, at_most_rows: int = 5_000) -> int:
    """Delete up to `at_most_rows` answers given longer ago than that; how many went. Call until it returns 0.

    A request whose answer was forgotten is a new one: `older_than` must exceed the time for which clients try again.
    """
    return delete_older(engine, shop.request, "answered_at", older_than, at_most_rows)
