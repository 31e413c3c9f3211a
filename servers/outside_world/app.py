"""The HTTP face of the outside world: one route a service, one to set its behaviour, one to export its record."""

import asyncio
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from servers.outside_world.behaviour import Behaviours, Kind
from servers.outside_world.world import Answer, World

SILENCE_POLL_S = 0.05
MAX_BATCH = 1_000


class _Sent(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="allow", frozen=True)


class Delivery(_Sent):
    """A mail, push, SMS or record: whatever it holds beside the key is kept in the record."""

    idempotency_key: str = Field(min_length=1, max_length=200)


class Charge(_Sent):
    idempotency_key: str = Field(min_length=1, max_length=200)
    order_id: str
    amount: Decimal = Field(ge=0, max_digits=20, decimal_places=2)
    card_type: str


class Settlement(_Sent):
    status: Literal["completed", "failed"]
    amount: Decimal = Field(Decimal("0.00"), ge=0, max_digits=20, decimal_places=2)


def create_app(world: World) -> FastAPI:
    app = FastAPI(title="The outside world", version="1", description="Records every call; breaks as it is told.")

    @app.post("/payments")
    async def pay(request: Request, charge: Charge) -> Response:
        """Charge a card: `completed`, `failed` with a reason, or `pending`."""
        await _latency("payments")
        return await _answer(request, world.charge(charge.idempotency_key, charge.amount, _body(charge)))

    @app.post("/payments/{key:path}/cancel")
    async def cancel(request: Request, key: str) -> Response:
        """Pay back what was charged under the key, and refuse a charge that comes later."""
        await _latency("payments")
        return await _answer(request, world.cancel(key))

    @app.post("/payments/{key:path}/settle")
    async def settle(request: Request, key: str, settlement: Settlement) -> Response:
        """Stand in for the hour in which a gateway settles a pending payment; 409 if it is not pending."""
        answer = world.settle(key, settlement.status, settlement.amount)
        return await _answer(request, answer) if answer else JSONResponse({"status": "not pending"}, 409)

    def delivers(kind: Kind) -> None:
        @app.post(f"/{kind}", name=kind)
        async def deliver(request: Request, delivery: Delivery) -> Response:
            await _latency(kind)
            return await _answer(request, world.deliver(kind, delivery.idempotency_key, _body(delivery)))

        @app.post(f"/{kind}/batch", name=f"{kind} in a batch")
        async def deliver_all(deliveries: Annotated[list[Delivery], Body(max_length=MAX_BATCH)]) -> Response:
            """Each meets its own fate, the latency is that of one request. `null`: silent about this one."""
            await _latency(kind)
            answers = [world.deliver(kind, delivery.idempotency_key, _body(delivery)) for delivery in deliveries]
            return JSONResponse([None if answer.is_silent else answer.content for answer in answers])

    kinds: tuple[Kind, ...] = ("mails", "pushes", "sms", "records")
    for kind in kinds:
        delivers(kind)

    @app.put("/behaviour")
    async def put_behaviour(behaviours: Behaviours) -> dict[str, Any]:
        """Replace the behaviour of the kinds named; it holds until changed again or the service restarts."""
        world.change(behaviours)
        return _behaviour()

    @app.get("/behaviour")
    async def get_behaviour() -> dict[str, Any]:
        return _behaviour()

    @app.get("/calls")
    async def calls() -> Response:
        """Every call so far, one JSON object a line, in the order they were taken."""
        return StreamingResponse(world.record.lines(), media_type="application/x-ndjson")

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    def _behaviour() -> dict[str, Any]:
        return {kind: behaviour.model_dump() for kind, behaviour in world.behaviour.items()}

    async def _latency(kind: Kind) -> None:
        if latency_ms := world.behaviour[kind].latency_ms:
            await asyncio.sleep(latency_ms / 1_000)

    return app


def _body(sent: _Sent) -> dict[str, Any]:
    return sent.model_dump(by_alias=True, exclude={"idempotency_key"})


async def _answer(request: Request, answer: Answer) -> Response:
    while answer.is_silent and not await request.is_disconnected():
        await asyncio.sleep(SILENCE_POLL_S)
    return JSONResponse(answer.content, answer.status)
