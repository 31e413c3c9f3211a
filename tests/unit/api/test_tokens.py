"""Which tokens are accepted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from fastapi import Request

from core.api.problems import Problem
from core.api.tokens import TokenSettings, admin_of, caller_of, mint

SETTINGS = TokenSettings("a secret of at least 32 characters!")
CLAIMS = {"sub": "c-1", "iss": "testbed", "aud": "shop", "scope": ""}


def request_with(header: str | None) -> Request:
    headers = [(b"authorization", header.encode())] if header is not None else []
    return Request({"type": "http", "headers": headers})


def signed(secret: str | None = SETTINGS.secret, algorithm: str = "HS256", lives_s: float = 60, **claims: Any) -> str:
    expiry = datetime.now(UTC) + timedelta(seconds=lives_s)
    body = {name: value for name, value in {**CLAIMS, "exp": expiry, **claims}.items() if value is not None}
    return "Bearer " + jwt.encode(body, secret, algorithm=algorithm)


def test_a_minted_token_names_its_subject_email_and_scopes() -> None:
    token = mint(SETTINGS, "c-1", scopes=["admin"], email="c@example.org")
    caller = admin_of(SETTINGS, request_with(f"Bearer {token}"))
    assert caller == ("c-1", "c@example.org", frozenset({"admin"}))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer not.a.token",
        "Basic dXNlcjpwYXNz",
        signed(lives_s=-1),
        signed(secret="another secret of at least 32 chars"),
        signed(secret=None, algorithm="none"),
        signed(secret="a secret of at least 64 characters" * 2, algorithm="HS512"),
        signed(iss="someone else"),
        signed(aud="another shop"),
        signed(sub=None),
        signed(sub=""),
        signed(sub="x" * 101),
        signed(sub="c\x00"),
        signed(exp=None),
        signed(scope=["admin"]),
    ],
)
def test_any_other_token_is_401(header: str | None) -> None:
    with pytest.raises(Problem) as problem:
        caller_of(SETTINGS, request_with(header))
    assert problem.value.status_code == 401


def test_a_token_signed_with_the_right_secret_by_another_algorithm_is_401() -> None:
    settings = TokenSettings("a secret of at least 64 characters" * 2)
    with pytest.raises(Problem) as problem:
        caller_of(settings, request_with(signed(secret=settings.secret, algorithm="HS512")))
    assert problem.value.status_code == 401


def test_a_token_without_the_admin_scope_is_403_where_it_is_needed() -> None:
    with pytest.raises(Problem) as problem:
        admin_of(SETTINGS, request_with(f"Bearer {mint(SETTINGS, 'c-1', scopes=['administrator'])}"))
    assert problem.value.status_code == 403


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TokenSettings("short")
