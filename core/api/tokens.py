"""Who is asking: a JWT, HS256 only, with issuer, audience and expiry checked. `mint` makes one for development."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import jwt
from fastapi import Request

from core.api.problems import Problem

ALGORITHM = "HS256"
ADMIN = "admin"
MAX_SUBJECT = 100


@dataclass(frozen=True)
class TokenSettings:
    secret: str
    """At least 32 bytes."""
    issuer: str = "testbed"
    audience: str = "shop"

    def __post_init__(self) -> None:
        if len(self.secret.encode()) < 32:
            raise ValueError("JWT_SECRET has to have at least 32 bytes")


class Caller(NamedTuple):
    id: str
    email: str | None
    scopes: frozenset[str]


def mint(
    settings: TokenSettings,
    subject: str,
    *,
    scopes: Sequence[str] = (),
    email: str | None = None,
    ttl_s: float = 3600.0,
) -> str:
    """A token for `subject`, valid for `ttl_s` seconds from now."""
    now = datetime.now(UTC)
    claims: dict[str, object] = {
        "sub": subject,
        "iss": settings.issuer,
        "aud": settings.audience,
        "iat": now,
        "exp": now + timedelta(seconds=ttl_s),
        "scope": " ".join(scopes),
    }
    if email is not None:
        claims["email"] = email
    return jwt.encode(claims, settings.secret, algorithm=ALGORITHM)


def caller_of(settings: TokenSettings, request: Request) -> Caller:
    """Raises Problem 401 for a missing, foreign, expired or otherwise unfit token. Read once a request."""
    known = getattr(request.state, "caller", None)
    if isinstance(known, Caller):
        return known
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _unauthorised("Send the header `Authorization: Bearer <token>`.")
    try:
        claims = jwt.decode(
            token.strip(),
            settings.secret,
            algorithms=[ALGORITHM],
            issuer=settings.issuer,
            audience=settings.audience,
            options={"require": ["sub", "exp", "iss", "aud"]},
        )
    except jwt.InvalidTokenError as error:
        raise _unauthorised(f"The token is not valid: {error}.") from error
    subject, email, scope = claims["sub"], claims.get("email"), claims.get("scope", "")
    if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise _unauthorised(f"The token's subject has to be 1 to {MAX_SUBJECT} printable characters.")
    if not isinstance(scope, str) or not (email is None or (isinstance(email, str) and email.isprintable())):
        raise _unauthorised("The token's scope or email is not text.")
    caller = Caller(subject, email, frozenset(scope.split()))
    request.state.caller = caller
    return caller


def admin_of(settings: TokenSettings, request: Request) -> Caller:
    """Raises Problem 401, or 403 without the admin scope."""
    caller = caller_of(settings, request)
    if ADMIN not in caller.scopes:
        raise Problem(403, f"This needs a token with the scope `{ADMIN}`.")
    return caller


def _unauthorised(detail: str) -> Problem:
    return Problem(401, detail, {"WWW-Authenticate": "Bearer"})
