"""The API's part of `testbed.metrics`: every request counted by route template, and the page itself.

By template, never by path, so the number of series does not grow with what clients send. A module of its own: relay and
consumers start without a web server's modules.
"""

import time

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from testbed.metrics import Metrics

UNMATCHED = "unmatched"
"""The route of a request that no route took."""


def install(metrics: Metrics, app: FastAPI) -> None:
    """Count the requests of `app` and answer GET /metrics."""
    app.add_middleware(MeteredRequests, metrics=metrics)

    @app.get("/metrics", include_in_schema=False)
    def page() -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)


class MeteredRequests:
    """ASGI middleware: rate, errors and duration by route template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began_s = time.perf_counter()
        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, note)
        finally:
            self._metrics.in_progress.dec()
            route = template_of(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.durations.labels(method, route).observe(time.perf_counter() - began_s)


def template_of(scope: Scope) -> str:
    """The path with its parameters' names for their values; UNMATCHED where no route took it.

    A route knows its path from its own router on, not the prefix it was included under: that is what the path has
    before it. Prefixes hold no parameters, so there are as many templates as routes.
    """
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    own = str(route.path)
    tail = str(route.path_format).format(**scope.get("path_params", {}))
    path = str(scope["path"])
    return path.removesuffix(tail) + own if path.endswith(tail) else own


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
