"""Every answer that is not a success is a problem detail (RFC 9457); nothing a client sends makes a 500."""

import logging

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.exceptions import HTTPException

from core.commands.requests import KeyReused
from core.domain.rules import ForbiddenState, InvalidRequest, RuleBroken, UnknownThing
from core.messaging.errors import BrokerError
from core.storage.database import is_away

log = logging.getLogger(__name__)

TITLES = {
    400: "The request is malformed",
    401: "A valid token is needed",
    403: "The token does not allow this",
    404: "Not found",
    405: "This path does not take this method",
    409: "The present state forbids this",
    413: "The body is too large",
    415: "The body has to be JSON",
    422: "The request is not acceptable",
    500: "Something broke here",
    503: "A service behind this one does not answer",
}


class Problem(HTTPException):
    """Raise it anywhere in a route."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


class CannotDo(Exception):
    """This system cannot do that; the message says what it lacks and what can be done instead."""


def problem(
    status: int, detail: str, *, errors: list[dict[str, str]] | None = None, headers: dict[str, str] | None = None
) -> Response:
    """`errors`: one `{pointer, detail}` for each wrong place in the request."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
    }
    if errors:
        content["errors"] = errors
    return Response(orjson.dumps(content), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Turn every error into a problem."""

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        errors = [{"pointer": _pointer(e["loc"]), "detail": str(e["msg"])} for e in error.errors()]
        if any(e["type"] == "json_invalid" for e in error.errors()):
            return problem(400, "The body is not valid JSON.", errors=errors)
        return problem(422, f"{len(errors)} value(s) in the request are wrong.", errors=errors)

    @app.exception_handler(RuleBroken)
    async def _rule(request: Request, error: RuleBroken) -> Response:
        if isinstance(error, UnknownThing):
            return problem(404, str(error))
        if isinstance(error, ForbiddenState):
            return problem(409, str(error))
        if isinstance(error, InvalidRequest):
            return problem(422, str(error), errors=[{"pointer": error.pointer, "detail": str(error)}])
        return problem(422, str(error))

    @app.exception_handler(CannotDo)
    async def _cannot(request: Request, error: CannotDo) -> Response:
        return problem(409, str(error))

    @app.exception_handler(BrokerError)
    async def _broker(request: Request, error: BrokerError) -> Response:
        log.warning("broker did not answer", extra={**_about(request), "error": str(error)})
        return problem(503, "The broker does not answer; try again.", headers={"Retry-After": "1"})

    @app.exception_handler(KeyReused)
    async def _key(request: Request, error: KeyReused) -> Response:
        return problem(422, str(error))

    @app.exception_handler(TimeoutError)
    @app.exception_handler(DBAPIError)
    async def _database(request: Request, error: TimeoutError | DBAPIError) -> Response:
        if not is_away(error) and not getattr(error, "connection_invalidated", False):
            return await _other(request, error)
        log.warning("database did not answer", extra={**_about(request), "error": str(error)})
        return problem(503, "The database cannot do this now; try again.", headers={"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def _other(request: Request, error: Exception) -> Response:
        log.error("request failed", extra=_about(request), exc_info=error)
        return problem(500, "The request failed here; nothing was changed.")


def _about(request: Request) -> dict[str, str | None]:
    return {"path": request.url.path, "correlation_id": request.headers.get("idempotency-key")}


def _pointer(location: tuple[int | str, ...]) -> str:
    """JSON pointer into the body; for other places the place's name first."""
    place, *path = location
    parts = path if place == "body" else [place, *path]
    return "".join(f"/{part}" for part in parts)
