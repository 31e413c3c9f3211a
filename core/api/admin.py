"""Routes of the people on call: dead letters, parked keys, audit, replay. Each needs a token with the admin scope.

What they do is handed in as `Operations`: the same that the command line uses.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, Field

from core.api.body import AdminRoute
from core.api.models import Name, Sent, problems_of
from core.api.problems import Problem
from core.domain.tickets import hash_of_phone, plain_phone
from core.queries.ledger import BEGINNING, END

PROBLEMS = problems_of(400, 401, 403, 409, 413, 422, 503)
MAX_LIMIT = 1_000
MAX_IDS = 10_000
Instant = Annotated[AwareDatetime, Field(ge=BEGINNING, le=END)]
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]


class Operations(Protocol):
    """Every answer is ready for JSON. Each raises `CannotDo` where the broker or the group lacks what it takes."""

    def retry_letters(self, stream: str | None, group: str | None, limit: int) -> Mapping[str, Any]: ...

    def requeue(self, keys: Sequence[str] | None) -> int:
        """How many parked keys may go again."""

    def audit(self, since: datetime | None) -> Mapping[str, Any]: ...

    def follow(self, name: str) -> Mapping[str, Any]:
        """The way of one event, or of all events of an order or a correlation id."""

    def follow_phone(self, phone_hash: str) -> Mapping[str, Any]:
        """The way of every application for tickets with that phone number, also of one that only the log knows."""

    def replay(
        self,
        group: str,
        event_ids: Sequence[str] | None,
        since: datetime | None,
        from_beginning: bool,
        source: Literal["events", "broker"],
    ) -> Mapping[str, Any]: ...


class RetryRequest(Sent):
    stream: Word | None = Field(default="ticket-applied", description="A topic, also by an older name; null: all.")
    group: Word | None = Field(default=None, description="Null: all groups.", examples=["email-service"])
    limit: int = Field(default=100, ge=1, le=MAX_LIMIT, strict=True, description="Letters at most, oldest first.")


class RequeueRequest(Sent):
    keys: list[Name] | None = Field(default=None, max_length=MAX_IDS, description="Parked keys; null: all of them.")


class ReplayRequest(Sent):
    group: Word = Field(examples=["product-metrics"])
    event_ids: list[UUID] | None = Field(default=None, min_length=1, max_length=MAX_IDS)
    since: Instant | None = None
    from_beginning: bool = Field(default=False, strict=True, description="Recompute all effects of the group.")
    source: Literal["events", "broker"] = "events"


def admin_router(operations: Operations, phone_key: bytes) -> APIRouter:
    router = APIRouter(prefix="/admin", tags=["admin"], route_class=AdminRoute)

    @router.post("/retry-dlq", responses=PROBLEMS)
    def post_retry(body: RetryRequest) -> Response:
        """Run each letter's group on it: effect, inbox row and closed letter in one transaction."""
        return _json(operations.retry_letters(body.stream, body.group, body.limit))

    @router.post("/outbox/requeue", responses=PROBLEMS)
    def post_requeue(body: RequeueRequest) -> Response:
        """Let parked keys go again, their attempts counted anew."""
        return _json({"requeuedKeys": operations.requeue(body.keys)})

    @router.get("/audit", responses=PROBLEMS)
    def get_audit(
        since: Annotated[Instant | None, Query(description="Only what occurred since then.")] = None,
        about: Annotated[Name | None, Query(description="An event, order, ticket or correlation id.")] = None,
        phone: Annotated[str | None, Query(max_length=40, description="An applicant's phone number.")] = None,
    ) -> Response:
        """Reconcile the broker's log with the database; or, `about` one thing or `phone` number, where its events are:
        in the ledger, at which position of the log, in each group's inbox, outside, among the dead letters."""
        if sum(value is not None for value in (since, about, phone)) > 1:
            raise Problem(422, "Name at most one of since, about and phone.")
        if phone is not None:
            return _json(operations.follow_phone(hash_of_phone(plain_phone(phone), phone_key)))
        return _json(operations.audit(since) if about is None else operations.follow(about))

    @router.post("/replay", responses=PROBLEMS)
    def post_replay(body: ReplayRequest) -> Response:
        """Apply for one group what it never applied, or recompute its effects from the beginning."""
        if sum((body.event_ids is not None, body.since is not None, body.from_beginning)) != 1:
            raise Problem(422, "Name exactly one of eventIds, since and fromBeginning.")
        ids = None if body.event_ids is None else [str(id_) for id_ in body.event_ids]
        return _json(operations.replay(body.group, ids, body.since, body.from_beginning, body.source))

    return router


def _json(content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
