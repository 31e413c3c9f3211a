"""A request's body: its size is limited before it is read, and its JSON is read by orjson, which refuses depth.

Who sends it is asked first of all.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.api.problems import Problem, problem
from core.api.tokens import admin_of, caller_of

MAX_BODY_BYTES = 262_144


class LimitBody:
    """ASGI middleware: 413 on a Content-Length above the limit, and while reading a body that does not tell it."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        detail = f"A body has at most {self._max_bytes} bytes."
        told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not told.isdigit() or int(told) > self._max_bytes:
            await problem(413, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        read_bytes = 0

        async def count() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._max_bytes:
                raise Problem(413, detail, {"Connection": "close"})
            return message

        await self._app(scope, count, send)


class JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route for callers with a valid token: 401 comes before anything that could be wrong with the body."""

    check_caller = staticmethod(caller_of)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            self.check_caller(request.app.state.tokens, request)
            return await handle(JsonRequest(request.scope, request.receive))

        return with_json


class AdminRoute(JsonRoute):
    """The same for callers with the admin scope: 403 comes before the body too."""

    check_caller = staticmethod(admin_of)
