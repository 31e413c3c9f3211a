"""Routes of products: look at one, like it, take the like back, see its metrics."""

import orjson
from fastapi import APIRouter, Request, Response

from core.api.body import JsonRoute
from core.api.models import BIGINT_MAX, MetricsAnswer, ProductAnswer, problems_of
from core.api.problems import Problem
from core.api.tokens import TokenSettings, caller_of
from core.commands.context import Context
from core.commands.products import like, unlike, view
from core.queries.products import find_cached_metrics, find_metrics
from core.storage.metrics_cache import MetricsCache

PROBLEMS = problems_of(401, 404, 503)


def products_router(context: Context, tokens: TokenSettings, cache: MetricsCache | None = None) -> APIRouter:
    router = APIRouter(tags=["products"], route_class=JsonRoute)

    @router.get("/products/{product_id}", response_model=ProductAnswer, responses=PROBLEMS)
    def get_product(request: Request, product_id: str) -> Response:
        """One product. Each look counts as a view."""
        caller = caller_of(tokens, request)
        product = view(context, _number(product_id), caller.id, context.new_id())
        content = {
            "id": product.id,
            "sellerId": product.seller_id,
            "name": product.name,
            "price": product.price,
        }
        return Response(orjson.dumps(content, default=float), media_type="application/json")

    @router.post("/products/{product_id}/likes", status_code=204, response_class=Response, responses=PROBLEMS)
    def post_like(request: Request, product_id: str) -> Response:
        """Like it; once a customer, however often it is sent."""
        like(context, _number(product_id), caller_of(tokens, request).id, context.new_id())
        return Response(status_code=204)

    @router.delete("/products/{product_id}/likes", status_code=204, response_class=Response, responses=PROBLEMS)
    def delete_like(request: Request, product_id: str) -> Response:
        """Take the caller's like back, if there is one."""
        unlike(context, _number(product_id), caller_of(tokens, request).id, context.new_id())
        return Response(status_code=204)

    @router.get("/products/{product_id}/metrics", response_model=MetricsAnswer, responses=PROBLEMS)
    def get_metrics(request: Request, product_id: str) -> Response:
        """Sales, likes and views, as far as product-metrics has counted them; from a cache, where one is kept."""
        caller_of(tokens, request)
        if cache is not None:
            metrics = find_cached_metrics(cache, _number(product_id))
        else:
            with context.engine.connect() as connection:
                metrics = find_metrics(connection, context.shop, _number(product_id))
        if metrics is None:
            raise Problem(404, f"There is no product {product_id}.")
        content = {"productId": int(product_id), **metrics._asdict()}
        return Response(orjson.dumps(content), media_type="application/json")

    return router


def _number(text: str) -> int:
    """A product's id; whatever is not one names no product."""
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= BIGINT_MAX:
        return int(text)
    raise Problem(404, f"There is no product {text}.")
