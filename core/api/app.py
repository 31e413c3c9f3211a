"""The shop's HTTP application. Everything it needs is handed in; it reads no environment and connects on first use."""

from dataclasses import dataclass

from fastapi import FastAPI, Response
from sqlalchemy import text

from core.api import problems
from core.api.admin import Operations, admin_router
from core.api.body import MAX_BODY_BYTES, LimitBody
from core.api.notifications import notifications_router
from core.api.order_views import order_views_router
from core.api.orders import orders_router
from core.api.payments import payments_router
from core.api.products import products_router
from core.api.tickets import tickets_router
from core.api.tokens import TokenSettings
from core.commands.context import Context
from core.commands.orders import CreatesOrder, create_order
from core.storage.metrics_cache import MetricsCache


@dataclass(frozen=True)
class Deps:
    context: Context
    tokens: TokenSettings
    max_body_bytes: int = MAX_BODY_BYTES
    operations: Operations | None = None
    """What the routes below /admin do; without it they are not there."""
    create_order: CreatesOrder = create_order
    """Seam `flow`: what a request for an order does before it is answered."""
    metrics_cache: MetricsCache | None = None
    """Read before the metrics of products; None: they are read from their table alone."""
    phone_secret: str = ""
    """Keys the hashes of phone numbers; empty: made from the tokens' secret, which production must not rely on."""

    @property
    def phone_key(self) -> bytes:
        return (self.phone_secret or f"phone numbers {self.tokens.secret}").encode()


def create_app(deps: Deps) -> FastAPI:
    """Every path below /api/v1 answers below /api too."""
    app = FastAPI(title="The shop", version="1", description="Orders, by events, on Kafka or RabbitMQ.")
    app.state.tokens = deps.tokens
    problems.install(app)
    routers = (
        orders_router(deps.context, deps.tokens, deps.create_order),
        products_router(deps.context, deps.tokens, deps.metrics_cache),
        payments_router(deps.context),
        tickets_router(deps.context, deps.tokens, deps.phone_key),
        notifications_router(deps.context, deps.tokens),
        order_views_router(deps.context, deps.tokens),
    )
    for router in routers:
        app.include_router(router, prefix="/api/v1")
        app.include_router(router, prefix="/api", include_in_schema=False)

    if deps.operations is not None:
        app.include_router(admin_router(deps.operations, deps.phone_key))

    @app.get("/health/live", tags=["health"])
    async def live() -> Response:
        """The process answers."""
        return Response(b'{"status":"live"}', media_type="application/json")

    @app.get("/health/ready", tags=["health"])
    def ready() -> Response:
        """The database answers a query."""
        with deps.context.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return Response(b'{"status":"ready"}', media_type="application/json")

    app.add_middleware(LimitBody, max_bytes=deps.max_body_bytes)
    return app
